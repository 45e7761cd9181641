// The timeline: one lane of labels and one of each run, drawn on a canvas of the size of the window that scrolls over
// them. Only what is visible is drawn, so that thousands of detections scroll smoothly.
"use strict";

(() => {
  const RULER = 22, TITLE = 18, ROW = 17, GAP = 8, MOST_ROWS = 60, HANDLE = 7, EMPTY = 22;
  const lanes = TAD.lanes = {zoom: 1, list: [], selected: null, time: 0, duration: 1, editable: false};
  let scroller, spacer, canvas, pen, colours, wanted = false, drag = null, handlers = {};

  lanes.setUp = (on) => {
    handlers = on;
    scroller = document.getElementById("scroller");
    spacer = document.getElementById("spacer");
    canvas = document.getElementById("canvas");
    pen = canvas.getContext("2d");
    readColours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); lanes.draw(); });
    new ResizeObserver(() => { size(); lanes.draw(); }).observe(scroller);
    scroller.addEventListener("scroll", lanes.draw, {passive: true});
    scroller.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      lanes.zoomBy(event.deltaY < 0 ? 1.25 : 0.8, x(event));
    }, {passive: false});
    canvas.addEventListener("pointerdown", press);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", () => { drag = null; lanes.draw(); });
  };

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    colours = {ink: read("--ink"), soft: read("--soft"), line: read("--line"), ground: read("--card"),
      head: read("--accent"), dark: read("--dark") === "1"};
    colours.kinds = TAD.KINDS.map((kind) => read(kind.colour.slice(4, -1)));
  }

  // ── layout ──

  /** Show lanes: {title, items, kind: "labels" or "run"}; an item has s, e, text, hue, and perhaps p, sign, mark, d. */
  lanes.show = (list, duration) => {
    lanes.list = list;
    lanes.duration = Math.max(duration, 0.001);
    let top = RULER;
    for (const lane of list) {
      lane.top = top;
      lane.rows = pack(lane.items);
      top += TITLE + Math.max(lane.rows * ROW, EMPTY) + GAP;
    }
    lanes.height = top;
    size();
    lanes.draw();
  };

  /** Give every item the first row that is free at its start; return the number of rows. */
  function pack(items) {
    items.sort((a, b) => a.s - b.s || b.e - a.e);
    const ends = [];
    for (const item of items) {
      let row = ends.findIndex((end) => end <= item.s);
      if (row < 0) row = ends.length < MOST_ROWS ? ends.length : item.s % MOST_ROWS | 0;
      ends[row] = Math.max(item.e, ends[row] || 0);
      item.row = row;
    }
    return ends.length;
  }

  function size() {
    const width = scroller.clientWidth, height = Math.min(scroller.clientHeight, lanes.height || 100);
    const scale = window.devicePixelRatio || 1;
    scroller.style.setProperty("--tall", `${lanes.height}px`);
    spacer.style.width = `${width * lanes.zoom}px`;
    spacer.style.height = `${lanes.height}px`;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
  }

  const perSecond = () => (scroller.clientWidth * lanes.zoom - 16) / lanes.duration;
  const toX = (seconds) => 8 + seconds * perSecond() - scroller.scrollLeft;
  const toTime = (at) => Math.min(lanes.duration, Math.max(0, (at - 8 + scroller.scrollLeft) / perSecond()));
  const x = (event) => event.clientX - canvas.getBoundingClientRect().left;
  const y = (event) => event.clientY - canvas.getBoundingClientRect().top;

  // ── zoom and place ──

  lanes.zoomBy = (factor, at = scroller.clientWidth / 2) => {
    const time = toTime(at), most = Math.max(1, (400 * lanes.duration) / scroller.clientWidth);
    lanes.zoom = Math.min(most, Math.max(1, lanes.zoom * factor));
    size();
    scroller.scrollLeft = 8 + time * perSecond() - at;
    lanes.draw();
  };

  lanes.zoomAll = () => { lanes.zoom = 1; size(); scroller.scrollLeft = 0; lanes.draw(); };

  /** Scroll so that the selected segment's row is visible. */
  function revealRow() {
    const lane = lanes.selected && lanes.list.find((one) => one.items.includes(lanes.selected));
    if (!lane) return;
    const at = lane.top + TITLE + lanes.selected.row * ROW;
    if (at < scroller.scrollTop + RULER) scroller.scrollTop = at - RULER - TITLE;
    else if (at + ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = at + 2 * ROW - scroller.clientHeight;
  }

  /** Scroll so that a time, and the selected segment, are visible; with `length`, zoom in so that a segment of this length can be seen well. */
  lanes.reveal = (time, length = 0) => {
    if (length > 0) {
      const wanted = (scroller.clientWidth * 0.3) / length / (scroller.clientWidth / lanes.duration);
      lanes.zoom = Math.max(1, Math.min(wanted, (400 * lanes.duration) / scroller.clientWidth));
      size();
    }
    const at = toX(time);
    if (at < 40 || at > scroller.clientWidth - 40) scroller.scrollLeft += at - scroller.clientWidth / 3;
    revealRow();
    lanes.draw();
  };

  lanes.playhead = (time, follow) => {
    lanes.time = time;
    if (follow && !drag) {
      const at = toX(time);
      if (at < 0 || at > scroller.clientWidth - 20) scroller.scrollLeft += at - scroller.clientWidth * 0.1;
    }
    lanes.draw();
  };

  // ── drawing ──

  lanes.draw = () => {
    if (wanted) return;
    wanted = true;
    requestAnimationFrame(() => { wanted = false; paint(); });
  };

  function paint() {
    const scale = window.devicePixelRatio || 1, width = canvas.width / scale, height = canvas.height / scale;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = colours.ground;
    pen.fillRect(0, 0, width, height);
    pen.textBaseline = "middle";
    for (const lane of lanes.list) paintLane(lane, width, height);
    ruler(width);
    const at = toX(lanes.time);
    pen.fillStyle = colours.head;
    pen.fillRect(at - 1, 0, 2, height);
    pen.beginPath();
    pen.moveTo(at - 6, 0); pen.lineTo(at + 6, 0); pen.lineTo(at, 8); pen.fill();
    lanes.painted = (lanes.painted || 0) + 1;
  }

  function paintLane(lane, width, height) {
    const top = lane.top - scroller.scrollTop, body = Math.max(lane.rows * ROW, EMPTY);
    if (top > height || top + TITLE + body < 0) return;
    pen.fillStyle = colours.line;
    pen.globalAlpha = 0.35;
    pen.fillRect(0, top + TITLE - 1, width, body + 2);
    pen.globalAlpha = 1;
    for (const [from, to] of lane.unclear || []) hatch(toX(from), toX(to), top + TITLE, body);
    for (const item of lane.items) {
      const from = toX(item.s), to = toX(item.e), at = top + TITLE + item.row * ROW;
      if (to < 0 || from > width || at > height || at + ROW < RULER) continue;
      bar(item, from, Math.max(to - from, 2), at, width);
    }
    if (drag && drag.fresh && drag.lane === lane) {
      pen.fillStyle = colours.head;
      pen.globalAlpha = 0.35;
      pen.fillRect(toX(Math.min(drag.from, drag.to)), top + TITLE, Math.abs(drag.to - drag.from) * perSecond(), body);
      pen.globalAlpha = 1;
    }
    pen.font = "600 12px system-ui, sans-serif";
    pen.fillStyle = colours.soft;
    pen.fillText(lane.title, 8, top + TITLE / 2, width - 16);
  }

  function hatch(from, to, top, body) {
    pen.fillStyle = colours.soft;
    pen.globalAlpha = 0.25;
    for (let at = from; at < to; at += 6) pen.fillRect(at, top, 2, body);
    pen.globalAlpha = 1;
  }

  function bar(item, from, wide, at, width) {
    const strong = item.p === undefined ? 1 : 0.25 + 0.75 * Math.min(Math.max((item.p - lanes.low) / (lanes.top - lanes.low), 0), 1);
    const chosen = lanes.selected === item;
    pen.globalAlpha = item.d ? 0.45 : strong;
    pen.fillStyle = `hsl(${item.hue} ${colours.dark ? "42% 36%" : "62% 76%"})`;
    pen.fillRect(from, at + 1, wide, ROW - 3);
    pen.globalAlpha = 1;
    if (item.mark >= 0) {
      pen.fillStyle = colours.kinds[item.mark];
      pen.fillRect(from, at + 1, Math.min(4, wide), ROW - 3);
    }
    if (item.d) {
      pen.strokeStyle = colours.ink;
      pen.setLineDash([4, 3]);
      pen.strokeRect(from + 0.5, at + 1.5, wide - 1, ROW - 4);
      pen.setLineDash([]);
    }
    if (chosen) {
      pen.strokeStyle = colours.head;
      pen.lineWidth = 2;
      pen.strokeRect(from, at + 1, wide, ROW - 3);
      pen.lineWidth = 1;
    }
    const left = Math.max(from, 0) + 7, space = Math.min(from + wide, width) - left - 3;
    if (space > 18) {
      pen.save();
      pen.beginPath();
      pen.rect(left, at, space, ROW);
      pen.clip();
      pen.font = "11px system-ui, sans-serif";
      pen.fillStyle = colours.ink;
      pen.fillText(`${item.sign ? `${item.sign} ` : ""}${item.text}`, left, at + ROW / 2);
      pen.restore();
    }
  }

  const STEPS = [0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

  function ruler(width) {
    pen.fillStyle = colours.ground;
    pen.fillRect(0, 0, width, RULER - 2);
    pen.fillStyle = colours.soft;
    pen.font = "11px system-ui, sans-serif";
    const step = STEPS.find((one) => one * perSecond() >= 76) || 7200;
    for (let k = Math.floor(toTime(0) / step); k * step <= toTime(width) + step; k += 1) {
      const at = toX(k * step);
      pen.fillRect(at, RULER - 8, 1, 6);
      const text = TAD.clock(k * step, step < 1 ? 2 : 0);
      if (at + 3 + pen.measureText(text).width <= width) pen.fillText(text, at + 3, RULER / 2 - 2);
    }
  }

  // ── pointing ──

  function laneAt(event) {
    const at = y(event) + scroller.scrollTop;
    return lanes.list.find((lane) => at >= lane.top && at < lane.top + TITLE + Math.max(lane.rows * ROW, EMPTY) + GAP);
  }

  function itemAt(event, lane) {
    if (!lane) return null;
    const row = Math.floor((y(event) + scroller.scrollTop - lane.top - TITLE) / ROW);
    const reach = event.pointerType === "touch" ? 14 : HANDLE;
    const near = lane.items.filter((item) => item.row === row && x(event) >= toX(item.s) - reach &&
      x(event) <= Math.max(toX(item.e), toX(item.s) + 2) + reach);
    const inside = near.filter((item) => x(event) >= toX(item.s) && x(event) <= toX(item.e));
    return (near.includes(lanes.selected) && lanes.selected) || inside.at(-1) || near.at(-1) || null;
  }

  function edge(event, item) {
    const reach = event.pointerType === "touch" ? 14 : HANDLE;
    const left = Math.abs(x(event) - toX(item.s)), right = Math.abs(x(event) - toX(item.e));
    if (Math.min(left, right) > reach) return "";
    return left < right ? "s" : "e";
  }

  function press(event) {
    if (event.button) return;
    const lane = laneAt(event), item = y(event) < RULER ? null : itemAt(event, lane);
    const edits = lanes.editable && lane && lane.kind === "labels" && y(event) >= RULER;
    drag = {lane, item, at: x(event), from: toTime(x(event)), to: toTime(x(event)), moved: false,
      side: item && edits ? edge(event, item) || "both" : "", fresh: Boolean(edits && !item),
      touch: event.pointerType === "touch", ruler: y(event) < RULER};
    if (item) drag.start = {s: item.s, e: item.e};
    if (drag.side || drag.fresh || drag.ruler) {
      canvas.setPointerCapture(event.pointerId);
      event.preventDefault();
    }
    lanes.selected = item;
    handlers.select(item, lane);
    lanes.draw();
  }

  const tidy = (seconds) => Math.round(Math.min(lanes.duration, Math.max(0, seconds)) * 1000) / 1000;

  function move(event) {
    if (!drag) {
      const lane = laneAt(event), item = lanes.editable && lane && lane.kind === "labels" ? itemAt(event, lane) : null;
      canvas.style.cursor = item ? (edge(event, item) ? "ew-resize" : "grab") : "pointer";
      return;
    }
    if (Math.abs(x(event) - drag.at) > 3) drag.moved = true;
    if (!drag.moved) return;
    const now = toTime(x(event));
    drag.to = now;
    if (drag.side) {
      const {s, e} = drag.start;
      if (drag.side === "s") drag.item.s = Math.min(tidy(now), e - 0.01);
      else if (drag.side === "e") drag.item.e = Math.max(tidy(now), s + 0.01);
      else {
        const shift = Math.min(Math.max(now - drag.from, -s), lanes.duration - e);
        drag.item.s = tidy(s + shift);
        drag.item.e = tidy(e + shift);
      }
      handlers.seek(drag.side === "e" ? drag.item.e : drag.item.s);
    } else if (drag.fresh || drag.ruler) {
      handlers.seek(now);
    } else if (drag.touch && lanes.editable) { // while editing the browser leaves sideways drags to us
      scroller.scrollLeft += drag.at - x(event);
      drag.at = x(event);
    }
    lanes.draw();
  }

  function release(event) {
    const was = drag;
    drag = null;
    if (!was) return;
    if (was.side && was.moved) handlers.moved(was.item, was.start);
    else if (was.fresh && was.moved && Math.abs(was.to - was.from) > 0.02) {
      handlers.fresh(tidy(Math.min(was.from, was.to)), tidy(Math.max(was.from, was.to)));
    } else if (!was.moved) handlers.seek(toTime(x(event)));
    lanes.draw();
  }

  /** Where an item is on the screen, for tests: {left, right, y} in pixels of the window. */
  lanes.placeOf = (item, lane) => {
    const box = canvas.getBoundingClientRect();
    return {left: box.left + toX(item.s), right: box.left + toX(item.e),
      y: box.top + lane.top - scroller.scrollTop + TITLE + item.row * ROW + ROW / 2};
  };
})();
