// The page's data. Every file of data is a script that calls TAD.receive with JSON, because browsers refuse to read data
// files beside a page that is opened from the disk. Labels and names are only ever set as text, never as HTML.
"use strict";

const TAD = {index: null, segments: new Map(), everyLabel: null};

(() => {
  const waiting = new Map();

  /** Take the data of a script: "index" starts the page, "video" and "labels" answer a `load`. */
  TAD.receive = (what, ...values) => {
    if (what === "index") {
      TAD.index = values[0];
      TAD.start();
    } else if (what === "video") {
      for (const run of values[1].runs) run.e = run.d.map((length, k) => Math.round((run.s[k] + length) * 1000) / 1000);
      TAD.segments.set(values[0], values[1]);
    } else if (what === "labels") {
      TAD.everyLabel = values[0];
    }
  };

  function load(file) {
    if (!waiting.has(file)) {
      waiting.set(file, new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = file;
        script.onload = () => { script.remove(); done(); };
        script.onerror = () => {
          script.remove();
          waiting.delete(file);
          fail(new Error(`${file} is missing; copy the whole folder of the page`));
        };
        document.head.append(script);
      }));
    }
    return waiting.get(file);
  }

  /** Resolve to the segments of a video by its number. */
  TAD.video = async (number) => {
    await load(`data/video-${number}.js`);
    return TAD.segments.get(number);
  };

  /** Resolve to rows (id, split, duration, instances) of all videos of the data set. */
  TAD.labelled = async () => {
    await load("data/labels.js");
    return TAD.everyLabel;
  };

  // Characters that change the direction of text or do not show are written as their code, so that a label cannot
  // disguise itself or its surroundings.
  const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

  /** A label or name as it is shown. */
  TAD.shown = (text) => String(text).replace(
    HIDDEN, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

  /** An element with attributes, listeners (`onclick`) and children; text becomes a text node. */
  TAD.element = (name, attributes = {}, ...children) => {
    const svg = ["svg", "path", "line", "text", "circle", "rect", "g", "polyline"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value === true) made.setAttribute(key, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  };

  /** Seconds as 1:02:03.456. */
  TAD.clock = (seconds, digits = 3) => {
    const whole = Math.max(0, Number(seconds.toFixed(digits)));
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
  };

  /** A threshold in words: "at tIoU 0.5", or for moments "within 2f". */
  TAD.threshold = (h) => (TAD.index.measure === "within" ? `within ${TAD.index.thresholds[h]}` : `at tIoU ${TAD.index.tiou[h]}`);

  TAD.percent = (fraction, digits = 1) => (100 * fraction).toFixed(digits);

  TAD.overlap = (a, b) => {
    const inside = Math.min(a.e, b.e) - Math.max(a.s, b.s);
    return inside <= 0 ? 0 : inside / (Math.max(a.e, b.e) - Math.min(a.s, b.s));
  };

  /** Hue of a class, well apart from its neighbours'. */
  TAD.hue = (number) => (number * 137.508 + 25) % 360;

  TAD.MISSED = "missed";
  // names as in tad.metrics.diagnosis.KINDS; the sign makes them distinguishable without colour
  TAD.KINDS = [
    {name: "true positive", sign: "✓", colour: "var(--right)"},
    {name: "double detection", sign: "2×", colour: "var(--double)"},
    {name: "wrong label", sign: "≠", colour: "var(--label)"},
    {name: "localization", sign: "↔", colour: "var(--borders)"},
    {name: "confusion", sign: "≈", colour: "var(--confusion)"},
    {name: "background", sign: "∅", colour: "var(--background)"},
    {name: TAD.MISSED, sign: "○", colour: "var(--missed)"},
  ];
  TAD.kind = (name) => TAD.KINDS.find((kind) => kind.name === name);
})();
