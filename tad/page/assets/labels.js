// The labels being edited: per video a list of {s, e, l, d} (start, end, label text, whether it is a draft), a history
// for undo, a copy in the browser's storage, and the CSV file that is saved.
"use strict";

(() => {
  const lists = new Map(), original = new Map(), reviewed = new Set();
  let done = [], undone = [], listeners = [];
  const labels = TAD.labels = {};

  const copy = (list) => list.map((item) => ({...item}));
  const storageKey = () => `tad-page:${TAD.index.key}`;

  function changed() {
    labels.stored = store();
    for (const listener of listeners) listener();
  }

  labels.onchange = (listener) => listeners.push(listener);

  /** Start the list of a video from its ground truth, or from detections as drafts; work kept by the browser wins. */
  labels.begin = (id, items) => {
    if (!original.has(id)) original.set(id, copy(items));
    if (!lists.has(id)) lists.set(id, copy(items));
  };

  labels.of = (id) => lists.get(id) || [];
  labels.canUndo = () => done.length > 0;
  labels.canRedo = () => undone.length > 0;
  labels.isEdited = (id) => touched().has(id);
  labels.edits = () => done.length;
  labels.isReviewed = (id) => reviewed.has(id);

  function touched() {
    return new Set(done.map((step) => step.id).concat(restored));
  }

  labels.review = (id, value) => {
    if (value) reviewed.add(id); else reviewed.delete(id);
    changed();
  };

  /** Change a video's list by `change(list)`, which returns the new list or changes it in place. */
  labels.edit = (id, change) => {
    const before = copy(labels.of(id)), working = copy(before);
    const after = (change(working) || working).filter((item) => item.e > item.s);
    after.sort((a, b) => a.s - b.s || a.e - b.e);
    if (JSON.stringify(before) === JSON.stringify(after)) return;
    done.push({id, before, after});
    undone = [];
    lists.set(id, after);
    reviewed.add(id);
    changed();
  };

  /** Undo the last change and return the id of its video. */
  labels.undo = () => move(done, undone, "before");
  labels.redo = () => move(undone, done, "after");

  function move(from, to, which) {
    const step = from.pop();
    if (!step) return null;
    to.push(step);
    lists.set(step.id, copy(step[which]));
    changed();
    return step.id;
  }

  // ── storage in the browser, in case the page is closed by accident ──

  let restored = [];

  function store() {
    const ids = [...touched()];
    const state = {lists: ids.map((id) => [id, lists.get(id)]), reviewed: [...reviewed]};
    try {
      localStorage.setItem(storageKey(), JSON.stringify(state));
      return true;
    } catch {
      return false; // storage is full or forbidden; the page says so and the file can still be saved
    }
  }

  const isItem = (item) => item && Number.isFinite(item.s) && Number.isFinite(item.e) && typeof item.l === "string";

  /** Take up the work that an earlier visit left in the browser; return the number of its videos. */
  labels.restore = () => {
    let state = null;
    try {
      state = JSON.parse(localStorage.getItem(storageKey()) || "null");
    } catch {
      return 0; // not ours, or damaged
    }
    const known = new Set(TAD.index.videos.map((video) => video.id));
    if (!state || !Array.isArray(state.lists)) return 0;
    for (const [id, list] of state.lists) {
      if (!known.has(id) || !Array.isArray(list)) continue;
      lists.set(id, list.filter(isItem).map(({s, e, l, d}) => ({s, e, l, d: Boolean(d)})));
      restored.push(id);
    }
    for (const id of state.reviewed || []) if (known.has(id)) reviewed.add(id);
    return restored.length;
  };

  /** Forget the work that the browser keeps, and begin again from the page's labels. */
  labels.forget = () => {
    for (const id of touched()) {
      if (original.has(id)) lists.set(id, copy(original.get(id))); else lists.delete(id);
    }
    done = []; undone = []; restored = []; reviewed.clear();
    try { localStorage.removeItem(storageKey()); } catch { /* nothing was kept */ }
    changed();
  };

  // ── the CSV file ──

  const cell = (text) => (/[",;\t\r\n]|^\s|\s$|^$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const number = (value) => String(value); // edits are rounded where they are made; other times stay as they were

  /**
   * The labels of the whole data set as text in the format of tad's csv data sets.
   * @param rows (id, split, duration, instances) of all videos as the page was made; videos without ground truth have
   *   no split
   * @param withDrafts whether drafts that were not accepted are included
   * The column `unit` says that times are seconds, whatever the unit of the labels before.
   * Of videos without ground truth only reviewed ones are written, as train split: of the others nobody knows what
   * happens.
   */
  labels.csv = (rows, withDrafts) => {
    const drafts = TAD.index.drafts;
    const durations = rows.some(([, , duration]) => duration !== null) && !drafts;
    const lines = [["video", "split", ...(durations ? ["duration"] : []), "start", "end", "label", "unit"]];
    for (const [id, split, duration, instances] of rows) {
      const edited = lists.has(id);
      if (drafts && !split && !reviewed.has(id)) continue;
      const items = edited ? lists.get(id).filter((item) => withDrafts || !item.d)
        : instances.map(([s, e, l]) => ({s, e, l: TAD.index.labels[l]}));
      const head = [id, drafts ? split || "train" : split, ...(durations ? [duration === null ? "" : String(duration)] : [])];
      for (const item of items) lines.push([...head, number(item.s), number(item.e), item.l, "seconds"]);
      if (!items.length) lines.push([...head, "", "", "", "seconds"]);
    }
    const text = lines.map((line) => line.map((value, k) => (k && value === "" ? "" : cell(value))).join(","));
    return {text: `${text.join("\n")}\n`, rows: lines.length - 1};
  };

  /** Offer a text as a download. */
  labels.download = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], {type: "text/csv;charset=utf-8"}));
    const link = TAD.element("a", {href: url, download: name});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
})();
