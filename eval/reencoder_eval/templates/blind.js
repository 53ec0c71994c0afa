// The two blind modes of a clip. Only this program's memory links letters to signals until the listener has answered.
class AbxTest {
  constructor(player) {
    this.player = player;
    this.panel = player.article.querySelector(".abx");
    this.choices = [...this.panel.querySelectorAll("select")];
    this.letters = [...this.panel.querySelectorAll(".letter")];
    this.answers = [...this.panel.querySelectorAll(".answer")];
    this.finish = this.panel.querySelector(".finish");
    this.pair = this.choices.map((choice) => Number(choice.value));
    this.began = null; // start time of the series, which names it; null: no trial has been answered
    this.answered = 0;
    this.choices.forEach((choice, place) => choice.addEventListener("change", () => this.compare(place)));
    for (const button of this.letters) button.addEventListener("click", () => this.hear(button.value));
    for (const button of this.answers) button.addEventListener("click", () => this.answer(button.value));
    this.finish.addEventListener("click", () => this.end());
    this.draw();
  }

  enter() {
    if (this.trial) this.hear("A", false);
    else this.next();
  }

  // Choosing the other signal of the pair swaps the two, so that no signal is compared with itself.
  compare(place) {
    const chosen = Number(this.choices[place].value);
    if (chosen === this.pair[1 - place]) this.pair[1 - place] = this.pair[place];
    this.pair[place] = chosen;
    this.choices.forEach((choice, index) => (choice.value = this.pair[index]));
    this.next();
  }

  next() {
    const [A, B] = shuffled(this.pair);
    this.trial = { A, B, X: [A, B][below(2)] };
    this.heardX = false;
    this.hear("A", false);
  }

  hear(letter, sound = true) {
    this.player.choose(this.trial[letter], sound);
    for (const button of this.letters) button.setAttribute("aria-pressed", String(button.value === letter));
    if (sound) this.player.sound();
    this.heardX ||= sound && letter === "X";
    this.draw();
  }

  answer(letter) {
    if (!this.heardX) return;
    const { clip, names } = this.player;
    this.began ??= new Date().toISOString();
    this.answered += 1;
    results.add({
      mode: "abx",
      clip,
      series: this.began,
      first: names[this.pair[0]],
      second: names[this.pair[1]],
      x: names[this.trial.X],
      answer: names[this.trial[letter]],
      correct: this.trial[letter] === this.trial.X,
    });
    this.next();
  }

  // Results are shown only after a series: a listener who saw them earlier could stop at a lucky moment.
  end() {
    this.began = null;
    this.answered = 0;
    this.draw();
  }

  key(name) {
    if ("abx".includes(name)) this.hear(name.toUpperCase());
    else if (name === "1" || name === "arrowleft") this.answer("A");
    else if (name === "2" || name === "arrowright") this.answer("B");
    else return false;
    return true;
  }

  draw() {
    const { clip, labels } = this.player;
    for (const choice of this.choices) choice.disabled = this.began !== null;
    for (const button of this.answers) button.disabled = !this.heardX;
    this.finish.disabled = this.began === null;
    this.panel.querySelector(".tally").textContent = `Trial ${this.answered + 1}. ${
      this.heardX ? "" : "Listen to X before you answer."
    }`;
    const ended = abxSeries(results.records).filter((one) => one.clip === clip && one.series !== this.began);
    this.panel.querySelector(".verdicts").replaceChildren(
      ...ended.map(({ first, second, correct, trials, p_value }) => {
        const line = document.createElement("li");
        const pair = `${labels.get(first) ?? first} / ${labels.get(second) ?? second}`;
        line.textContent = `${pair}: ${correct} of ${trials} correct, p = ${p_value.toFixed(3)}`;
        return line;
      }),
    );
  }
}

class RatingTest {
  constructor(player) {
    this.player = player;
    this.panel = player.article.querySelector(".rating");
    this.rows = [...this.panel.querySelectorAll(".rater")].map((row) => ({
      letter: row.querySelector(".letter"),
      slider: row.querySelector("input"),
      given: row.querySelector("output"),
      name: row.querySelector(".name"),
    }));
    this.open = this.panel.querySelector(".reference");
    this.finish = this.panel.querySelector(".finish");
    this.open.addEventListener("click", () => this.hear(-1));
    this.rows.forEach((row, index) => {
      row.letter.addEventListener("click", () => this.hear(index));
      row.slider.addEventListener("input", () => this.rate(index));
      row.slider.addEventListener("click", () => this.rate(index)); // a click that does not move it is a rating too
    });
    this.finish.addEventListener("click", () => (this.revealed ? this.next() : this.end()));
    this.next();
  }

  enter() {
    this.hear(-1, false);
  }

  next() {
    this.order = shuffled(this.rows.keys());
    this.ratings = this.rows.map(() => null);
    this.revealed = false;
    for (const { slider } of this.rows) slider.value = 50;
    if (this.player.article.dataset.mode === "rating") this.enter();
    this.draw();
  }

  // -1: the reference under its own name
  hear(index, sound = true) {
    this.player.choose(index < 0 ? 0 : this.order[index], sound);
    this.open.setAttribute("aria-pressed", String(index < 0));
    this.rows.forEach(({ letter }, number) => letter.setAttribute("aria-pressed", String(number === index)));
    if (sound) this.player.sound();
  }

  rate(index) {
    this.ratings[index] = Number(this.rows[index].slider.value);
    this.draw();
  }

  end() {
    const { clip, names } = this.player;
    const series = new Date().toISOString();
    const record = (rating, index) => ({ mode: "rating", clip, series, system: names[this.order[index]], rating });
    results.add(...this.ratings.map(record));
    this.revealed = true;
    this.draw();
  }

  key(name) {
    if (!/^[0-9]$/.test(name)) return false;
    if (Number(name) <= this.rows.length) this.hear(Number(name) - 1);
    return true;
  }

  draw() {
    const { names, labels } = this.player;
    this.rows.forEach(({ slider, given, name }, index) => {
      given.textContent = this.ratings[index] ?? "–";
      slider.classList.toggle("given", this.ratings[index] !== null);
      slider.disabled = this.revealed;
      name.textContent = this.revealed ? labels.get(names[this.order[index]]) : "";
    });
    this.finish.disabled = this.ratings.includes(null);
    this.finish.textContent = this.revealed ? "Rate again" : "Save and show names";
  }
}
