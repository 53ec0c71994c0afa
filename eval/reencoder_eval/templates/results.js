// Keeps the listener's answers in memory and, if allowed, in the browser's storage, and offers them as a file.
const CSV_COLUMNS = [
  "time", "mode", "clip", "series", "system", "rating", "first", "second", "x", "answer", "correct", "loudness_matched",
];

const results = {
  name: `reencoder-eval listening ${document.querySelector("main").dataset.run}`,
  box: document.querySelector(".results"),
  records: [],
  problem: "",

  restore() {
    try {
      this.records = JSON.parse(localStorage.getItem(this.name)) ?? [];
    } catch {
      this.refused();
    }
    this.show();
  },

  add(...records) {
    const time = new Date().toISOString();
    this.records.push(...records.map((record) => ({ time, ...record, loudness_matched: matched })));
    this.save();
  },

  clear() {
    this.records = [];
    this.save();
  },

  save() {
    try {
      localStorage.setItem(this.name, JSON.stringify(this.records));
    } catch {
      this.refused();
    }
    this.show();
  },

  // Some browsers store nothing for pages opened from a disk.
  refused() {
    this.problem = "This browser does not store answers: download them before you close the page.";
  },

  show() {
    if (!this.box) return;
    const trials = this.records.filter((record) => record.mode === "abx").length;
    const counted = `${trials} A/B/X trials, ${this.records.length - trials} ratings.`;
    this.box.querySelector("output").textContent = `${this.records.length ? counted : "none yet."} ${this.problem}`;
    for (const button of this.box.querySelectorAll(".download, .clear")) button.disabled = !this.records.length;
  },

  json() {
    const content = { title: document.title, run: document.querySelector("main").dataset.run };
    return JSON.stringify({ ...content, abx: abxSeries(this.records), records: this.records }, null, 1);
  },

  csv() {
    const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
    const lines = this.records.map((record) => CSV_COLUMNS.map((column) => quoted(record[column])).join(","));
    return `${[CSV_COLUMNS.join(","), ...lines].join("\r\n")}\r\n`;
  },

  download(kind) {
    const [text, type] = kind === "csv" ? [this.csv(), "text/csv"] : [this.json(), "application/json"];
    const address = URL.createObjectURL(new Blob([text], { type }));
    Object.assign(document.createElement("a"), { href: address, download: `listening.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  },
};

// One row per series of trials, with the probability of at least as many correct answers by guessing.
function abxSeries(records) {
  const series = new Map();
  for (const { mode, clip, series: began, first, second, correct } of records) {
    if (mode !== "abx") continue;
    const key = JSON.stringify([clip, began]);
    if (!series.has(key)) series.set(key, { clip, series: began, first, second, trials: 0, correct: 0 });
    series.get(key).trials += 1;
    series.get(key).correct += correct ? 1 : 0;
  }
  return [...series.values()].map((one) => ({ ...one, p_value: guessing(one.correct, one.trials) }));
}

// The upper tail of the binomial distribution with p = 1/2.
function guessing(correct, trials) {
  let [ways, sum] = [1, 0]; // ways: trials over k
  for (let k = 0; k <= trials; k++) {
    if (k >= correct) sum += ways;
    ways *= (trials - k) / (k + 1);
  }
  return sum / 2 ** trials;
}

function below(number) {
  return crypto.getRandomValues(new Uint32Array(1))[0] % number; // its bias is below one in a hundred million
}

function shuffled(items) {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = below(last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}
