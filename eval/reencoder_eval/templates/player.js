"use strict";
// One clip, several signals: all are started together and stay in step, one gain each decides which one is heard.
const FADE = 0.005; // seconds; long enough to hide the click of a switch, short enough to seem instant
let context = null;
let current = null;

class Player {
  constructor(article) {
    this.article = article;
    this.signals = [...article.querySelectorAll(".signal")];
    this.button = article.querySelector(".play");
    this.slider = article.querySelector("input");
    this.clock = article.querySelector("output");
    this.loopButton = article.querySelector(".loop");
    this.problem = article.querySelector(".problem");
    this.seconds = Number(article.dataset.seconds);
    this.heard = 0;
    this.offset = 0; // where playing starts or has stopped
    this.startedAt = null; // on the context's clock; null: not playing
    this.voices = [];
    this.buffers = null;
    this.button.addEventListener("click", () => this.toggle());
    this.loopButton.addEventListener("click", () => this.setLoop(!this.loop));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.signals.forEach((signal, index) => {
      signal.querySelector(".choose").addEventListener("click", () => this.choose(index));
      const picture = signal.querySelector(".picture");
      picture.addEventListener("click", (event) => {
        const box = picture.getBoundingClientRect();
        this.choose(index);
        this.seek(((event.clientX - box.left) / box.width) * this.seconds);
      });
    });
    this.choose(0, false);
    this.draw();
  }

  get loop() {
    return this.loopButton.getAttribute("aria-pressed") === "true";
  }

  get position() {
    if (this.startedAt === null) return this.offset;
    const passed = this.offset + Math.max(0, context.currentTime - this.startedAt);
    return this.loop ? passed % this.seconds : Math.min(passed, this.seconds);
  }

  async toggle() {
    if (this.startedAt !== null) return this.pause();
    return this.play();
  }

  // Sound is decoded when a clip is first played, so that the page opens at once.
  load() {
    context ??= new AudioContext({ sampleRate: Number(this.article.dataset.rate) });
    this.buffers ??= Promise.all(
      this.signals.map((signal) => {
        const text = atob(signal.querySelector("script").textContent.trim());
        return context.decodeAudioData(Uint8Array.from(text, (character) => character.charCodeAt(0)).buffer);
      }),
    );
    return this.buffers;
  }

  async play() {
    this.take();
    this.button.disabled = true;
    try {
      const buffers = await this.load();
      await context.resume();
      this.start(buffers);
    } catch (error) {
      this.buffers = null;
      this.problem.textContent = `This browser cannot play the sound: ${error.message || error}`;
    } finally {
      this.button.disabled = false;
    }
  }

  start(buffers) {
    this.stop();
    if (this.offset >= this.seconds - FADE) this.offset = 0;
    this.startedAt = context.currentTime + 0.03; // one moment for all, a little ahead
    this.voices = buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(context, { buffer, loop: this.loop });
      const gain = new GainNode(context, { gain: index === this.heard ? 1 : 0 });
      source.connect(gain).connect(context.destination);
      source.start(this.startedAt, this.offset);
      return { source, gain };
    });
    this.voices[0].source.onended = () => this.ended();
    this.article.dataset.state = "playing";
    this.button.textContent = "Pause";
    requestAnimationFrame(() => this.tick());
  }

  stop() {
    for (const { source, gain } of this.voices) {
      source.onended = null;
      source.stop();
      gain.disconnect();
    }
    this.voices = [];
    this.startedAt = null;
    this.article.dataset.state = "stopped";
    this.button.textContent = "Play";
  }

  pause() {
    this.offset = this.position;
    this.stop();
    this.draw();
  }

  ended() {
    this.stop();
    this.offset = 0;
    this.draw();
  }

  async seek(seconds) {
    this.take();
    const playing = this.startedAt !== null;
    this.offset = Math.min(Math.max(seconds, 0), this.seconds);
    if (playing) {
      this.startedAt = null;
      this.start(await this.buffers);
    }
    this.draw();
  }

  setLoop(on) {
    this.take();
    if (this.startedAt !== null) {
      this.offset = this.position;
      this.startedAt = Math.max(context.currentTime, this.startedAt);
    }
    this.loopButton.setAttribute("aria-pressed", String(on));
    for (const { source } of this.voices) source.loop = on;
  }

  choose(index, take = true) {
    if (index >= this.signals.length) return;
    if (take) this.take();
    this.heard = index;
    this.signals.forEach((signal, number) => {
      signal.classList.toggle("heard", number === index);
      signal.querySelector(".choose").setAttribute("aria-pressed", String(number === index));
    });
    this.voices.forEach(({ gain }, number) => {
      const now = context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setValueAtTime(gain.gain.value, now);
      gain.gain.linearRampToValueAtTime(number === index ? 1 : 0, now + FADE);
    });
  }

  // The keyboard belongs to the clip that was touched last, and only one clip sounds.
  take() {
    if (current === this) return;
    if (current) {
      if (current.startedAt !== null) current.pause();
      current.article.classList.remove("current");
    }
    current = this;
    this.article.classList.add("current");
  }

  tick() {
    if (this.startedAt === null) return;
    this.draw();
    requestAnimationFrame(() => this.tick());
  }

  draw() {
    const position = this.position;
    this.slider.value = position;
    this.clock.textContent = `${position.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
    for (const signal of this.signals) {
      signal.querySelector(".head").style.left = `${(100 * position) / this.seconds}%`;
    }
  }
}

const players = [...document.querySelectorAll("article")].map((article) => new Player(article));

document.addEventListener("keydown", (event) => {
  const player = current || players[0];
  if (!player || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) player.choose(Number(event.key) - 1);
  else if (event.key === " ") player.toggle();
  else if (event.key === "ArrowLeft") player.seek(player.position - 1);
  else if (event.key === "ArrowRight") player.seek(player.position + 1);
  else if (event.key === "l") player.setLoop(!player.loop);
  else return;
  event.preventDefault(); // or the space bar would also press the button that has the focus
});
