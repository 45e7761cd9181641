// The page itself: the player, what is shown, the keys, and the parts of the other scripts put together.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id), el = TAD.element, {shown, lanes, labels, charts} = TAD;
  const state = TAD.state = {video: -1, label: -1, score: 0, tiou: 0, hidden: new Set(), tab: "", edit: false, time: 0, until: null};
  const player = $("player");
  const entry = () => TAD.index.videos[state.video];
  const rate = () => (entry().file && entry().rate) || 25;
  let segments = null, asked = 0, labelNames = [];

  function trouble(message) {
    $("trouble").hidden = !message;
    $("trouble").textContent = message;
  }

  // ── start ──

  TAD.start = () => {
    const {index} = TAD;
    labelNames = [...index.labels];
    state.tiou = index.at;
    state.score = index.threshold;
    $("subtitle").textContent = index.subtitle || "";
    for (const [k, video] of index.videos.entries()) {
      const cost = video.cost ? ` · ${(100 * video.cost).toFixed(2)} mAP lost` : "";
      const split = index.split && video.split !== index.split ? ` · ${shown(video.split)}, not scored` : "";
      $("video").append(el("option", {value: k}, `${shown(video.id)}${split}${cost}`));
    }
    $("label").append(el("option", {value: -1}, "all classes"),
      ...index.labels.map((name, k) => el("option", {value: k}, shown(name))));
    $("known").append(...index.labels.map((name) => el("option", {value: name})));
    Object.assign($("score"), {min: index.low, max: index.top, step: (index.top - index.low) / 200, value: state.score});
    $("tiou").append(...index.tiou.map((t, h) => el("option", {value: h, selected: h === state.tiou}, index.measure === "within" ? index.thresholds[h] : String(Number(t.toFixed(4))))));
    $("tiou-field").hidden = !index.tiou.length;
    if (index.measure === "within") $("tiou-field").querySelector("label").textContent = "tolerance";
    $("lanes-field").hidden = index.runs.length < 2;
    $("toggles").append(...index.runs.map((run, k) => el("label", {}, el("input", {type: "checkbox", checked: true,
      onchange: (event) => { if (event.target.checked) state.hidden.delete(k); else state.hidden.add(k); show(); }}), el("bdi", {}, shown(run.name)))));
    $("legend").append(...(index.tiou.length ? TAD.KINDS : []).map((kind) => el("span", {class: "kind"},
      el("i", {style: `background:${kind.colour}`}), `${kind.sign} ${kind.name}`)));
    $("reviewed-field").hidden = !index.drafts;
    Object.assign(lanes, {low: index.low, top: index.top});
    lanes.setUp({select, seek, moved, fresh});
    tabs();
    listen();
    const kept = labels.restore();
    if (kept) said(`labels of ${kept} video${kept > 1 ? "s" : ""} from an earlier visit`, true);
    labels.onchange(() => { buttons(); show(); });
    if (index.drafts) setEditing(true);
    buttons();
    if (index.videos.length) open(0);
    else trouble("There is no video to show.");
  };

  function listen() {
    $("video").onchange = (event) => open(Number(event.target.value));
    $("previous").onclick = () => open(state.video - 1);
    $("next").onclick = () => open(state.video + 1);
    $("label").onchange = (event) => chooseLabel(Number(event.target.value));
    $("score").oninput = (event) => { state.score = Number(event.target.value); show(); };
    $("tiou").onchange = (event) => { state.tiou = Number(event.target.value); show(); charts.refresh(); };
    $("play").onclick = play;
    $("back").onclick = () => step(-1);
    $("forward").onclick = () => step(1);
    $("speed").onchange = (event) => { player.playbackRate = Number(event.target.value); };
    $("zoom-in").onclick = () => lanes.zoomBy(1.6);
    $("zoom-out").onclick = () => lanes.zoomBy(1 / 1.6);
    $("zoom-all").onclick = lanes.zoomAll;
    $("edit").onclick = () => setEditing(!state.edit);
    $("undo").onclick = () => travel(labels.undo());
    $("redo").onclick = () => travel(labels.redo());
    $("save").onclick = save;
    $("set-label").onclick = relabel;
    $("relabel").onkeydown = (event) => { if (event.key === "Enter") { event.preventDefault(); relabel(); } };
    $("set-start").onclick = () => border("s");
    $("set-end").onclick = () => border("e");
    $("accept").onclick = accept;
    $("delete").onclick = remove;
    $("add").onclick = add;
    $("take").onclick = takeDrafts;
    $("accept-all").onclick = () => labels.edit(entry().id, (list) => list.map((item) => ({...item, d: false})));
    $("reviewed").onchange = (event) => labels.review(entry().id, event.target.checked);
    player.onplay = player.onpause = () => {
      $("play").textContent = player.paused ? "▶" : "❚❚";
      $("play").setAttribute("aria-label", player.paused ? "play" : "pause");
      if (!player.paused) follow();
    };
    player.onseeked = () => { if (player.paused) tick(); };
    player.onerror = () => { if (player.getAttribute("src")) noPlayer("this browser cannot play the copy of the video"); };
    document.addEventListener("keydown", key);
    window.addEventListener("beforeunload", (event) => {
      if (labels.edits() && !state.saved && !labels.stored) event.preventDefault();
    });
  }

  // ── one video ──

  async function open(number, then = () => {}) {
    if (number < 0 || number >= TAD.index.videos.length) return;
    if (number === state.video && segments) { then(); return; }
    const mine = ++asked;
    try {
      const found = await TAD.video(number);
      if (mine !== asked) return; // another video was chosen meanwhile
      segments = found;
    } catch (error) {
      trouble(error.message);
      return;
    }
    trouble("");
    state.video = number;
    state.until = null;
    $("video").value = number;
    $("previous").disabled = number === 0;
    $("next").disabled = number === TAD.index.videos.length - 1;
    const {file, why, id} = entry();
    player.pause();
    if (file) {
      $("no-player").hidden = true;
      player.hidden = false;
      player.src = `media/${file}`;
      player.playbackRate = Number($("speed").value);
      player.currentTime = 0.001;
      if (why) { $("no-player").hidden = false; $("no-player").textContent = `The copy ends early: ${shown(why)}`; }
    } else noPlayer(why);
    labels.begin(id, start());
    lanes.selected = null;
    lanes.zoom = 1;
    state.time = 0;
    describe();
    show();
    lanes.zoomAll();
    seek(0);
    then();
  }

  function noPlayer(why) {
    player.removeAttribute("src");
    player.load();
    player.hidden = true;
    $("no-player").hidden = false;
    $("no-player").textContent = `No picture: ${shown(why)}. Times below are of the video.`;
  }

  /** The labels that a video begins with: ground truth, or the detections above the threshold as drafts. */
  function start() {
    if (!TAD.index.drafts) return segments.truth.map(([s, e, l]) => ({s, e, l: TAD.index.labels[l], d: false}));
    return draftsOf(segments.runs[0], TAD.index.threshold);
  }

  const draftsOf = (lane, threshold) => lane.s.map((s, k) => ({s, e: lane.e[k], l: TAD.index.labels[lane.l[k]], d: true, p: lane.p[k]}))
    .filter((item) => item.p >= threshold && item.e > item.s).map(({s, e, l, d}) => ({s, e, l, d}));

  function number(name) {
    let at = labelNames.indexOf(name);
    if (at < 0) at = labelNames.push(name) - 1;
    return at;
  }

  function duration() {
    const ends = [entry().duration || 0, ...labels.of(entry().id).map((item) => item.e)];
    if (entry().duration === null) for (const lane of segments.runs) ends.push(...lane.e);
    if (entry().file && Number.isFinite(player.duration)) ends.push(player.duration);
    return Math.max(...ends, 0.5);
  }

  /** Show the lanes with the present choices. */
  function show() {
    if (!segments) return;
    const {index} = TAD, h = state.tiou, {id} = entry(), passes = (label) => state.label < 0 || state.label === label;
    $("score-value").textContent = state.score.toFixed(index.top - index.low > 1 ? 1 : 3);
    const chosen = lanes.selected, edited = labels.isEdited(id);
    const own = labels.of(id).map((item, k) => {
      const label = number(item.l), found = edited ? "" : segments.runs.map((run) => run.f[h]?.[k]);
      const sign = !edited && found.length && found.includes("0") ? (found.includes("1") ? "◐" : "○") : "";
      return {...item, text: shown(item.l), hue: TAD.hue(label), label, at: k, sign, mark: sign === "○" ? 6 : -1, lane: "labels"};
    }).filter((item) => passes(item.label));
    const list = [{title: title(own, edited), kind: "labels", items: own, unclear: segments.ambiguous}];
    for (const [r, run] of segments.runs.entries()) {
      if (state.hidden.has(r)) continue;
      const items = [];
      for (let k = 0; k < run.s.length; k += 1) {
        if (run.p[k] < state.score || !passes(run.l[k])) continue;
        const kind = run.k.length && run.k[h][k] !== "-" ? Number(run.k[h][k]) : -1;
        items.push({s: run.s[k], e: run.e[k], p: run.p[k], label: run.l[k], text: shown(index.labels[run.l[k]]), hue: TAD.hue(run.l[k]),
          mark: kind, sign: kind >= 0 ? TAD.KINDS[kind].sign : "", run: r, at: k});
      }
      const best = run.n > run.s.length ? `, the best ${run.s.length} of ${run.n} are on this page` : "";
      list.push({title: `${shown(index.runs[r].name)}: ${items.length} ${items.length === 1 ? "detection" : "detections"}${best}`, kind: "run", items});
    }
    lanes.editable = state.edit;
    lanes.selected = chosen && list.flatMap((lane) => lane.items).find((item) => item.at === chosen.at && item.run === chosen.run) || null;
    lanes.show(list, duration());
    describe();
  }

  function title(own, edited) {
    const drafts = own.filter((item) => item.d).length;
    const name = TAD.index.drafts || edited ? "labels" : "ground truth";
    return `${name}: ${own.length}${drafts ? `, ${drafts} of them drafts` : ""}${edited && !TAD.index.drafts ? " (edited)" : ""}`;
  }

  // ── time ──

  function seek(time) {
    state.until = null;
    state.time = Math.min(Math.max(time, 0), duration());
    if (!player.hidden && player.src) player.currentTime = Math.min(state.time + 0.001, player.duration || Infinity);
    clock();
    lanes.playhead(state.time, false);
  }

  const clock = () => { $("clock").textContent = `${TAD.clock(state.time)} / ${TAD.clock(duration(), 1)}`; };

  function tick() {
    state.time = Math.max(0, player.currentTime - 0.001);
    clock();
    lanes.playhead(state.time, true);
  }

  function follow() {
    if (player.paused) return;
    tick();
    if (state.until !== null && player.currentTime >= state.until) { player.pause(); state.until = null; }
    requestAnimationFrame(follow);
  }

  function step(frames) {
    player.pause();
    seek((Math.round(state.time * rate()) + frames) / rate());
    lanes.reveal(state.time);
  }

  function play() {
    if (player.hidden || !player.src) return;
    state.until = null;
    if (player.paused) player.play().catch((error) => trouble(`The video does not play: ${error.message}`));
    else player.pause();
  }

  function playSegment(item) {
    seek(item.s);
    state.until = item.e;
    if (!player.hidden && player.src) player.play().catch((error) => trouble(`The video does not play: ${error.message}`));
  }

  // ── the selected segment ──

  function select(item) {
    lanes.selected = item;
    describe();
  }

  function describe() {
    const item = lanes.selected, isLabel = Boolean(item && item.lane === "labels");
    $("editor").hidden = !(isLabel && state.edit);
    if (!item) {
      $("detail").replaceChildren(el("p", {class: "soft"}, "Choose a segment in the timeline."));
      return;
    }
    const kind = item.mark >= 0 && item.p !== undefined ? TAD.KINDS[item.mark] : null;
    const length = item.e - item.s;
    $("detail").replaceChildren(...[
      el("p", {class: "name"}, el("bdi", {}, item.text)),
      el("p", {}, length ? `${item.s.toFixed(3)} to ${item.e.toFixed(3)} s, ${length.toFixed(3)} s long` : `at ${item.s.toFixed(3)} s`),
      item.p === undefined ? null : el("p", {}, `score ${item.p.toFixed(4)}`, kind ? ` · ${kind.sign} ${kind.name} ${TAD.threshold(state.tiou)}` : TAD.index.drafts ? "" : " · does not count: its class has no instance in this split"),
      isLabel ? el("p", {}, item.d ? "a draft" : item.sign === "○" ? "missed by every run" : item.sign === "◐" ? "missed by some runs" : "") : near(item),
      el("span", {class: "group"},
        el("button", {type: "button", onclick: () => playSegment(item)}, "Play it"),
        el("button", {type: "button", onclick: () => { seek(item.s); lanes.reveal(item.s, length); }}, "To its start"),
        el("button", {type: "button", onclick: () => { seek(item.e); lanes.reveal(item.e, length); }}, "To its end"),
        state.edit && !isLabel ? el("button", {type: "button", onclick: () => adopt(item)}, "Copy to labels") : null),
    ].filter(Boolean));
    if (isLabel) $("relabel").value = labels.of(entry().id)[item.at].l;
    $("accept").disabled = !item.d;
  }

  function near(item) {
    const best = segments.truth.map(([s, e, l]) => ({s, e, l, share: TAD.overlap({s, e}, item)})).sort((a, b) => b.share - a.share)[0];
    return best && best.share > 0 ? el("p", {}, `tIoU ${best.share.toFixed(2)} with `, el("bdi", {}, shown(TAD.index.labels[best.l])),
      ` ${best.s.toFixed(2)}–${best.e.toFixed(2)} s`) : null;
  }

  function neighbour(by) {
    const items = lanes.list.flatMap((lane) => lane.items).sort((a, b) => a.s - b.s || a.e - b.e);
    if (!items.length) return;
    const at = items.indexOf(lanes.selected);
    const next = at >= 0 ? items[Math.min(Math.max(at + by, 0), items.length - 1)]
      : items.find((item) => item.s >= state.time) || items.at(-1);
    select(next);
    seek(next.s);
    lanes.reveal(next.s);
  }

  function chooseLabel(label) {
    state.label = label;
    $("label").value = label < TAD.index.labels.length ? label : -1;
    show();
    charts.refresh();
  }

  function go(error, run) {
    const at = TAD.index.videos.findIndex((video) => video.id === error.video);
    open(at, () => {
      if (error.kind !== TAD.MISSED && error.score < state.score) { state.score = error.score; $("score").value = error.score; }
      state.hidden.delete(run);
      if (state.label >= 0 && state.label !== error.label) state.label = -1;
      state.tiou = TAD.index.at;
      $("tiou").value = state.tiou;
      $("label").value = state.label;
      show();
      const kind = error.kind === TAD.MISSED ? "labels" : "run";
      const item = lanes.list.filter((lane) => lane.kind === kind).flatMap((lane) => lane.items).filter((one) => kind === "labels" || one.run === run)
        .find((one) => one.label === error.label && Math.abs(one.s - error.start) < 0.002 && Math.abs(one.e - error.end) < 0.002);
      select(item || null);
      seek(error.start);
      lanes.reveal(error.start, error.end - error.start);
      document.querySelector(".stage").scrollIntoView({block: "start"});
    });
  }

  // ── editing ──

  function setEditing(on) {
    state.edit = on;
    $("edit").setAttribute("aria-pressed", String(on));
    $("tools").hidden = !on;
    document.body.classList.toggle("editing", on);
    show();
  }

  const change = (edit) => labels.edit(entry().id, edit);
  const now = () => Math.round(state.time * 1000) / 1000;
  const selectedLabel = () => (state.edit && lanes.selected && lanes.selected.lane === "labels" ? lanes.selected : null);

  /** Change the selected label, and keep it selected though the list is sorted anew. */
  function alter(values) {
    const item = selectedLabel();
    if (!item) return;
    const wanted = {...labels.of(entry().id)[item.at], ...values, d: false};
    if (wanted.e <= wanted.s) return said("a segment ends after it starts", false);
    change((list) => { list[item.at] = wanted; });
    choose(wanted);
  }

  function choose(wanted) {
    const lane = lanes.list[0];
    lanes.selected = lane.items.find((item) => item.s === wanted.s && item.e === wanted.e && item.l === wanted.l) || null;
    lanes.draw();
    describe();
  }

  function moved(item, before) {
    const wanted = {s: item.s, e: item.e};
    Object.assign(item, before);
    lanes.selected = item;
    alter(wanted);
  }

  function insert(s, e, label) {
    change((list) => { list.push({s, e, l: label, d: false}); });
    choose({s, e, l: label});
    $("relabel").focus({preventScroll: true});
    $("relabel").select();
  }

  function usual() {
    if (state.label >= 0) return labelNames[state.label];
    const item = lanes.selected;
    if (item) return labelNames[item.label];
    return labels.of(entry().id)[0]?.l ?? TAD.index.labels[0] ?? "action";
  }

  function fresh(s, e) { insert(s, e, usual()); }

  function add() {
    const s = now(), e = Math.min(duration(), Math.round((s + Math.max(1, duration() / 100)) * 1000) / 1000);
    if (e > s) insert(s, e, usual()); else said("the video ends here", false);
  }

  function adopt(item) {
    insert(item.s, item.e, TAD.index.labels[item.label]);
  }

  function relabel() {
    const name = $("relabel").value.trim().normalize("NFC");
    if (!name) return said("a label has a name", false);
    if (!labelNames.includes(name)) $("known").append(el("option", {value: name}));
    number(name);
    alter({l: name});
    lanes.selected && document.activeElement === $("relabel") && $("scroller").focus({preventScroll: true});
    return undefined;
  }

  function border(side) { alter(side === "s" ? {s: now()} : {e: now()}); }
  function accept() { alter({}); }

  function remove() {
    const item = selectedLabel();
    if (!item) return;
    lanes.selected = null;
    change((list) => { list.splice(item.at, 1); });
  }

  function takeDrafts() {
    const r = segments.runs.findIndex((_, k) => !state.hidden.has(k));
    if (r < 0) return;
    change((list) => {
      const added = draftsOf(segments.runs[r], state.score).filter((item) => (state.label < 0 || labelNames[state.label] === item.l) &&
        !list.some((other) => other.l === item.l && TAD.overlap(other, item) > 0.5));
      return [...list, ...added];
    });
  }

  function travel(id) {
    if (id === null) return;
    lanes.selected = null;
    const at = TAD.index.videos.findIndex((video) => video.id === id);
    if (at !== state.video) open(at); else show();
  }

  async function save() {
    let rows;
    try {
      rows = !TAD.index.drafts || TAD.index.known ? await TAD.labelled() : [];
      if (TAD.index.drafts) rows = [...rows, ...TAD.index.videos.map((video) => [video.id, "", video.duration, []])];
    } catch (error) {
      trouble(error.message);
      return;
    }
    const {text, rows: count} = labels.csv(rows, $("with-drafts").checked);
    const reviewed = !TAD.index.drafts || TAD.index.videos.some((video) => labels.isReviewed(video.id));
    if (!count || !reviewed) { said("nothing to save yet: accept, add or change a label, or mark a video as reviewed", false); return; }
    labels.download(`${TAD.index.title.replaceAll(/[^\w.-]+/g, "-")}-labels.csv`, text);
    TAD.lastSaved = text;
    state.saved = true;
    said(`saved ${count} rows`, false);
  }

  function said(text, forget) {
    $("saved").replaceChildren(text, ...(forget ? [" ", el("button", {type: "button", class: "link", onclick: () => { labels.forget(); said("", false); }}, "discard")] : []));
  }

  function buttons() {
    $("undo").disabled = !labels.canUndo();
    $("redo").disabled = !labels.canRedo();
    if (labels.edits()) { state.saved = false; said(labels.stored ? "not saved yet (this browser keeps it)" : "not saved yet", false); }
    if (state.video >= 0) $("reviewed").checked = labels.isReviewed(entry().id);
  }

  // ── keys ──

  function key(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox" && event.target.type !== "range";
    const control = event.ctrlKey || event.metaKey, lower = event.key.toLowerCase();
    if (control && lower === "s") { event.preventDefault(); save(); return; }
    if (typing || event.altKey) return;
    if (control && lower === "z") { event.preventDefault(); travel(event.shiftKey ? labels.redo() : labels.undo()); return; }
    if (control) return;
    if (event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter")) return;
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    if (event.target.role === "tab" && event.key.startsWith("Arrow")) return;
    const keys = {
      " ": play, ArrowLeft: () => (event.shiftKey ? seek(state.time - 1) : step(-1)), ArrowRight: () => (event.shiftKey ? seek(state.time + 1) : step(1)),
      ArrowUp: () => neighbour(-1), ArrowDown: () => neighbour(1), "+": () => lanes.zoomBy(1.6), "=": () => lanes.zoomBy(1.6),
      "-": () => lanes.zoomBy(1 / 1.6), 0: lanes.zoomAll, ",": () => open(state.video - 1), ".": () => open(state.video + 1),
      e: () => setEditing(!state.edit), E: () => setEditing(!state.edit), "[": () => border("s"), "]": () => border("e"),
      n: () => state.edit && add(), N: () => state.edit && add(), Enter: accept, Delete: remove, Backspace: remove,
    };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  // ── tabs ──

  function tabs() {
    const study = TAD.index.tiou.length;
    const list = study ? [["errors", "Worst errors"], ["classes", "Classes"], ["curves", "Curves"], ["diagnosis", "Diagnosis"], ["facts", "Coverage and provenance"]]
      : [["facts", "Coverage and provenance"]];
    for (const [name, text] of list) {
      $("tabs").append(el("button", {type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => tab(name),
        onkeydown: (event) => {
          const by = {ArrowLeft: -1, ArrowRight: 1}[event.key], at = list.findIndex(([one]) => one === name);
          if (by && list[at + by]) { tab(list[at + by][0]); $(`tab-${list[at + by][0]}`).focus(); }
        }}, text));
    }
    tab(list[0][0]);
  }

  function tab(name) {
    state.tab = name;
    for (const button of $("tabs").children) {
      button.setAttribute("aria-selected", String(button.id === `tab-${name}`));
      button.tabIndex = button.id === `tab-${name}` ? 0 : -1;
    }
    charts.refresh();
  }

  charts.refresh = () => {
    const parts = {errors: () => charts.errors(state, go), classes: () => charts.classes(state, chooseLabel), curves: () => charts.curves(state),
      diagnosis: charts.diagnosis, facts: charts.facts}[state.tab]();
    $("panel").replaceChildren(...parts.flat().filter(Boolean));
  };
})();
