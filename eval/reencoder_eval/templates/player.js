"use strict";
// Plays one clip: all its signals start together and stay in sync, and their gains decide which is heard.
const FADE = 0.005; // seconds; long enough to hide the click of a switch, short enough to seem instant
let context = null;
let current = null;
let matched = true; // whether signals are played at the loudness of their reference, or as scored

class Player {
  constructor(article) {
    this.article = article;
    this.clip = article.dataset.clip;
    this.signals = [...article.querySelectorAll(".signal")];
    this.names = this.signals.map((signal) => signal.dataset.system);
    this.labels = new Map(this.signals.map((signal) => [signal.dataset.system, signal.dataset.label]));
    this.gains = this.signals.map((signal) => Number(signal.dataset.gain));
    this.button = article.querySelector(".play");
    this.slider = article.querySelector(".position");
    this.clock = article.querySelector(".clock");
    this.loopButton = article.querySelector(".loop");
    this.problem = article.querySelector(".problem");
    this.seconds = Number(article.dataset.seconds);
    this.heard = 0;
    this.offset = 0; // position where playing starts or stopped, in seconds
    this.startedAt = null; // on the context's clock; null: not playing
    this.voices = [];
    this.master = null;
    this.buffers = null;
    this.button.addEventListener("click", () => this.toggle());
    this.loopButton.addEventListener("click", () => this.setLoop(!this.loop));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.signals.forEach((signal, index) => {
      signal.querySelector(".choose").addEventListener("click", () => this.choose(index));
      for (const picture of signal.querySelectorAll(".picture")) {
        picture.addEventListener("click", (event) => {
          const box = picture.getBoundingClientRect();
          this.choose(index);
          this.seek(((event.clientX - box.left) / box.width) * this.seconds);
        });
      }
    });
    this.heads = [...article.querySelectorAll(".head")];
    this.choose(0, false);
    this.draw();
  }

  get blind() {
    return this.article.dataset.mode !== "open";
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

  sound() {
    if (this.startedAt === null) this.play();
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
    this.startedAt = context.currentTime + 0.03; // slightly ahead, so that all signals start together
    this.master = new GainNode(context);
    this.master.connect(context.destination);
    this.voices = buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(context, { buffer, loop: this.loop });
      const gain = new GainNode(context, { gain: this.level(index) });
      source.connect(gain).connect(this.master);
      source.start(this.startedAt, this.offset);
      return { source, gain };
    });
    this.voices[0].source.onended = () => this.ended();
    this.article.dataset.state = "playing";
    this.button.textContent = "Pause";
    requestAnimationFrame(() => this.tick());
  }

  stop() {
    for (const { source } of this.voices) {
      source.onended = null;
      source.stop();
    }
    this.master?.disconnect();
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
    this.fade();
  }

  level(index) {
    if (index !== this.heard) return 0;
    return matched ? this.gains[index] : 1;
  }

  // In open mode one signal fades into the other. In blind modes every switch dips to silence, even from a signal to
  // itself, so that the sound of the switch does not reveal X.
  fade() {
    if (!this.voices.length) return;
    const now = context.currentTime;
    if (this.blind) {
      ramp(this.master.gain, 0, now).linearRampToValueAtTime(1, now + 2 * FADE);
    }
    this.voices.forEach(({ gain }, index) => {
      if (this.blind) gain.gain.cancelScheduledValues(now).setValueAtTime(this.level(index), now + FADE);
      else ramp(gain.gain, this.level(index), now);
    });
  }

  // The keyboard controls the clip that was used last, and only one clip plays.
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
    for (const head of this.heads) head.style.left = `${(100 * position) / this.seconds}%`;
  }
}

function ramp(gain, value, now) {
  gain.cancelScheduledValues(now);
  return gain.setValueAtTime(gain.value, now).linearRampToValueAtTime(value, now + FADE);
}
