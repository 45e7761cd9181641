// The study below the player: tables of errors and classes, curves, the diagnosis in sentences, coverage, provenance.
"use strict";

(() => {
  const el = TAD.element, shown = TAD.shown;
  const charts = TAD.charts = {};
  const bdi = (text) => el("bdi", {}, shown(text));
  const RUN_COLOURS = 6;
  const colourOf = (run) => `var(--run-${run % RUN_COLOURS})`;

  /** A table from heads and rows; a cell is text, an element, or {text, number}. */
  function table(heads, rows, classes = "") {
    const cell = (name) => (value) => {
      const isNumber = typeof value === "object" && value && "number" in value;
      return el(name, {class: isNumber ? "number" : null, style: isNumber ? value.style : null},
        isNumber ? value.number : value);
    };
    return el("div", {class: "scroll"}, el("table", {class: classes},
      el("thead", {}, el("tr", {}, heads.map(cell("th")))),
      el("tbody", {}, rows.map((row) => el("tr", {class: row.chosen ? "chosen" : null}, row.map(cell("td")))))));
  }

  const kindCell = (name) => {
    const kind = TAD.kind(name);
    return el("span", {class: "kind"}, el("i", {style: `background:${kind.colour}`}), `${kind.sign} ${name}`);
  };

  // ── worst errors ──

  const asked = {run: 0, kind: "", most: 40};

  charts.errors = (state, go) => {
    const {index} = TAD, run = index.runs[asked.run];
    const at = TAD.threshold(index.at);
    const rows = run.worst.filter((e) => (!asked.kind || e.kind === asked.kind) &&
      (state.label < 0 || e.label === state.label));
    const counts = new Map();
    for (const e of run.worst) counts.set(e.kind, (counts.get(e.kind) || 0) + 1);
    const choose = (name, options, value, change) => el("label", {class: "inline"}, `${name} `,
      el("select", {onchange: (event) => { change(event.target.value); charts.refresh(); }},
        options.map(([key, text]) => el("option", {value: key, selected: key === value}, text))));
    const line = (e) => [
      kindCell(e.kind),
      el("button", {type: "button", class: "link", onclick: () => go(e, asked.run)}, bdi(e.video),
        ` at ${TAD.clock(e.start, 1)}`),
      bdi(index.labels[e.label]),
      {number: `${e.start.toFixed(2)}–${e.end.toFixed(2)} s`},
      {number: e.kind === TAD.MISSED ? "–" : e.score.toFixed(3)},
      {number: (100 * e.cost).toFixed(3)},
    ];
    return [
      el("p", {}, `Detections that match nothing, and instances that no detection matches, ${at}; those that cost most mAP first.`),
      el("p", {class: "group"},
        index.runs.length > 1 ? choose("run", index.runs.map((r, k) => [String(k), shown(r.name)]), String(asked.run),
          (value) => { asked.run = Number(value); }) : null,
        choose("kind", [["", `all kinds (${run.worst.length})`], ...TAD.KINDS.slice(1).filter((k) => counts.has(k.name))
          .map((k) => [k.name, `${k.sign} ${k.name} (${counts.get(k.name)})`])], asked.kind,
        (value) => { asked.kind = value; })),
      rows.length ? table(["kind", "where", "class", "segment", "score", "mAP points"],
        rows.slice(0, asked.most).map(line), "errors") : el("p", {}, "None."),
      rows.length > asked.most ? el("button", {type: "button", onclick: () => { asked.most += 100; charts.refresh(); }},
        `${rows.length - asked.most} more`) : null,
    ];
  };

  // ── classes ──

  charts.classes = (state, choose) => {
    const {index} = TAD, h = state.tiou, mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const classes = index.labels.map((name, k) => ({name, k})).filter(({k}) => index.runs.some((run) => run.AP[k]));
    classes.sort((a, b) => (index.runs[0].AP[a.k]?.[h] ?? 2) - (index.runs[0].AP[b.k]?.[h] ?? 2));
    const ap = (value) => ({number: value === undefined ? "–" : TAD.percent(value),
      style: value === undefined ? null : `--share:${value}`});
    const rows = classes.map(({name, k}) => {
      const row = [el("button", {type: "button", class: "link", onclick: () => choose(k)}, bdi(name)),
        {number: String(index.runs[0].instances[k])},
        ...index.runs.flatMap((run) => [ap(run.AP[k]?.[h]), ap(run.AP[k] ? mean(run.AP[k]) : undefined)])];
      row.chosen = k === state.label;
      return row;
    });
    const total = ["all classes", {number: String(index.runs[0].instances.reduce((a, b) => a + b, 0))},
      ...index.runs.flatMap((run) => [ap(run.mAP[h]), ap(run.average_mAP)])];
    const heads = ["class", {number: "instances"}, ...index.runs.flatMap((run) => {
      const name = index.runs.length > 1 ? `${shown(run.name)}: ` : "";
      return [{number: `${name}AP ${TAD.threshold(h)}`}, {number: `${name}average AP`}];
    })];
    return [el("p", {}, "AP in percent, the weakest class first. Choose a class to see only its segments."),
      table(heads, [total, ...rows], "classes")];
  };

  // ── curves ──

  const W = 320, H = 240, L = 40, B = 34, T = 24, R = 12;

  /** A chart with both axes from 0 to 1 (x may have its own range); lines are {points, run, dots}. */
  function chart(title, xName, yName, lines, {low = 0, high = 1, ticks = [0, 0.25, 0.5, 0.75, 1], diagonal = false} = {}) {
    const px = (value) => L + ((value - low) / (high - low || 1)) * (W - L - R), py = (value) => H - B - value * (H - B - T);
    const parts = [];
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(el("line", {x1: L, x2: W - R, y1: py(tick), y2: py(tick), class: "grid"}),
        el("text", {x: L - 6, y: py(tick) + 4, class: "end"}, String(tick)));
    }
    for (const tick of ticks) parts.push(el("text", {x: px(tick), y: H - B + 15, class: "mid"}, String(tick)));
    if (diagonal) parts.push(el("line", {x1: px(0), y1: py(0), x2: px(1), y2: py(1), class: "grid dashed"}));
    for (const {points, run, dots} of lines) {
      parts.push(el("polyline", {points: points.map(([a, b]) => `${px(a)},${py(b)}`).join(" "),
        style: `stroke:${colourOf(run)}`, class: "curve"}));
      if (dots) for (const [a, b] of points) parts.push(el("circle", {cx: px(a), cy: py(b), r: 3, style: `fill:${colourOf(run)}`}));
    }
    parts.push(el("text", {x: (L + W) / 2, y: H - 4, class: "mid"}, xName));
    return el("figure", {}, el("figcaption", {}, title),
      el("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${yName} over ${xName}`},
        el("text", {x: 2, y: 11, class: "start"}, yName), parts));
  }

  charts.curves = (state) => {
    const {index} = TAD, {tiou} = index, over = index.measure === "within" ? "tolerance" : "tIoU";
    const mean = (run) => {
      const every = run.curves.filter(Boolean);
      return every[0].map((_, k) => every.reduce((sum, one) => sum + one[k], 0) / every.length);
    };
    const curve = (run) => (state.label >= 0 ? run.curves[state.label] : mean(run));
    const whose = state.label >= 0 ? shown(index.labels[state.label]) : "mean over classes";
    const drawn = (of) => index.runs.map((run, k) => ({points: of(run) || [], run: k, dots: false}));
    const parts = [
      chart(`mAP over ${over}`, over, "mAP", index.runs.map((run, k) => ({run: k, dots: true,
        points: tiou.map((t, h) => [t, run.mAP[h]])})), {low: tiou[0], high: tiou.at(-1) === tiou[0] ? tiou[0] + 0.1 : tiou.at(-1),
        ticks: tiou.length > 5 ? [tiou[0], tiou[tiou.length >> 1], tiou.at(-1)] : tiou}),
      chart(`Precision and recall ${TAD.threshold(index.at)} (${whose})`, "recall", "precision",
        drawn((run) => curve(run)?.map((p, k, all) => [k / (all.length - 1), p]))),
    ];
    const bins = (run) => run.calibration.bins.map((b) => [b.score, b.right]);
    if (index.runs.some((run) => run.calibration.bins.length)) {
      parts.push(chart("Scores as probabilities", "score", "share right",
        index.runs.map((run, k) => ({points: bins(run), run: k, dots: true})), {diagonal: true}));
    }
    return [charts.legend(), el("div", {class: "figures"}, parts)];
  };

  charts.legend = () => (TAD.index.runs.length < 2 ? null : el("p", {class: "group"}, TAD.index.runs.map((run, k) =>
    el("span", {class: "kind"}, el("i", {style: `background:${colourOf(k)}`}), bdi(run.name)))));

  // ── diagnosis ──

  charts.diagnosis = () => [el("div", {class: "side"}, TAD.index.runs.map((run) => {
    const gains = Object.entries(run.errors.gain).sort((a, b) => b[1].mAP - a[1].mAP);
    const most = Math.max(...gains.map(([, gain]) => gain.mAP), 1e-9);
    const sizes = {coverage: "length as a share of the video (0 to 1)", length: "length in seconds", instances: "instances of the class in the video",
      gap: "seconds to the nearest other moment"};
    const bucket = (row) => `${row.size}: ${row.low ? `over ${Number(row.low.toPrecision(3))}` : ""}${row.low && row.high !== null ? ", " : ""}${row.high === null ? "" : `up to ${Number(row.high.toPrecision(3))}`}`;
    return el("article", {}, TAD.index.runs.length > 1 ? el("h3", {}, bdi(run.name)) : null,
      ["activitynet", "moments", "soccernet"].includes(run.matching) ? null : el("p", {}, "Matched by ActivityNet's rule, whatever the protocol's own."),
      el("ul", {class: "sentences"}, run.sentences.map((text) => el("li", {}, bdi(text)))),
      el("h4", {}, "Average mAP gained if a kind of error were removed"),
      el("div", {class: "bars"}, gains.map(([name, gain]) => el("div", {}, kindCell(name),
        el("span", {class: "track"}, el("i", {style: `width:${(100 * Math.max(gain.mAP, 0)) / most}%;background:${TAD.kind(name).colour}`})),
        el("b", {}, `+${(100 * gain.mAP).toFixed(2)}`)))),
      Object.entries(sizes).map(([fact, text]) => (run.characteristics[fact]?.length ? [el("h4", {}, `By ${text}`),
        table(["instances", {number: "count"}, {number: "missed, %"}, {number: "normalised mAP, %"}],
          run.characteristics[fact].map((row) => [bucket(row), {number: String(row.count)},
            {number: row.missed === undefined ? "–" : TAD.percent(row.missed)},
            {number: row.normalised_mAP === undefined ? "–" : TAD.percent(row.normalised_mAP)}]))] : null)).flat());
  }))];

  // ── coverage and provenance ──

  charts.facts = () => {
    const {runs} = TAD.index;
    const names = [...new Set(runs.flatMap((run) => run.facts.map(([name]) => name)))];
    const value = (run, name) => run.facts.find(([other]) => other === name)?.[1] ?? "–";
    const rows = names.map((name) => {
      const values = runs.map((run) => value(run, name));
      const row = [name, ...values.map((text) => bdi(text))];
      row.chosen = new Set(values).size > 1;
      return row;
    });
    const lists = runs.flatMap((run) => [["missing", "have no detections and count as missed"], ["excluded", "are excluded"]]
      .filter(([key]) => run[key].length).map(([key, text]) => el("details", {open: run[key].length < 6},
        el("summary", {}, runs.length > 1 ? bdi(`${run.name}: `) : null, `${run[key].length} videos ${text}`),
        el("ul", {}, run[key].map(([video, why]) => el("li", {}, bdi(video), `: `, bdi(why)))))));
    const warned = runs.flatMap((run) => run.warnings.map((line) => [run, line]));
    return [
      el("h3", {}, "Coverage"), lists.length ? lists : el("p", {}, "Every video of the split was scored."),
      warned.length ? [el("h3", {}, "Warnings"), el("ul", {}, warned.map(([run, line]) =>
        el("li", {}, runs.length > 1 ? bdi(`${run.name}: `) : null, bdi(line))))] : null,
      el("h3", {}, "Where the numbers come from"),
      runs.length > 1 ? el("p", {}, "Highlighted facts differ between the runs.") : null,
      table(["", ...runs.map((run) => bdi(run.name))], rows, "facts"),
    ].flat();
  };
})();
