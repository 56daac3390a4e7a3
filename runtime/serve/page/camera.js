// Captions of what a camera sees now: one picture in work at a time, the newest, and none while nothing moves.

import { element, facts } from "./card.js";

const MAX_SIDE = 512;
const QUALITY = 0.9;
const CHECK_MS = 100;
const GREY_SIDE = 24;
const CHANGE = 4; // mean difference of grey values, 0..255; sensor noise of a webcam stays below
const SAY_EVERY_MS = 4000;

export class Camera {
  /**
   * @param {{caption: Function, CaptionError: Function}} engine What captions.
   * @param {(text: string) => void} say Tells those who use a screen reader.
   */
  constructor(engine, say) {
    this.engine = engine;
    this.say = say;
    this.video = document.getElementById("video");
    this.text = document.getElementById("live-caption");
    this.facts = document.getElementById("live-facts");
    this.frame = new OffscreenCanvas(1, 1);
    this.small = new OffscreenCanvas(GREY_SIDE, GREY_SIDE);
    this.stopped = null;
  }

  get running() {
    return this.stopped !== null;
  }

  async start() {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 }, audio: false });
    this.stopped = new AbortController();
    this.video.srcObject = stream;
    await this.video.play();
    this.seen = null;
    this.said = { text: "", at: -SAY_EVERY_MS };
    this.loop(this.stopped.signal);
  }

  stop() {
    clearTimeout(this.later);
    this.stopped?.abort();
    this.stopped = null;
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  async loop(signal) {
    while (!signal.aborted) {
      if (!document.hidden && this.changed()) await this.captionNow(signal);
      await new Promise((later) => setTimeout(later, CHECK_MS));
    }
  }

  /** Whether the picture differs from the one that was captioned last. */
  changed() {
    if (!this.video.videoWidth) return false;
    const context = this.small.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.video, 0, 0, GREY_SIDE, GREY_SIDE);
    const { data } = context.getImageData(0, 0, GREY_SIDE, GREY_SIDE);
    const grey = Array.from({ length: GREY_SIDE ** 2 }, (_, at) => (data[4 * at] + 2 * data[4 * at + 1] + data[4 * at + 2]) / 4);
    const difference = this.seen ? grey.reduce((sum, value, at) => sum + Math.abs(value - this.seen[at]), 0) / grey.length : Infinity;
    if (difference < CHANGE) return false;
    this.seen = grey;
    return true;
  }

  async captionNow(signal) {
    const taken = performance.now();
    const onText = (text) => { if (!signal.aborted && !this.text.dataset.whole) this.text.textContent = text; };
    try {
      const result = await this.engine.caption(await this.picture(), { signal, onText });
      if (!signal.aborted) this.show(result, performance.now() - taken);
    } catch (error) {
      if (signal.aborted) return;
      this.text.textContent = error instanceof this.engine.CaptionError ? error.message : String(error);
      this.seen = null;
      await new Promise((later) => setTimeout(later, 1000));
    }
  }

  async picture() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    this.frame.width = Math.round(width * scale);
    this.frame.height = Math.round(height * scale);
    this.frame.getContext("2d").drawImage(this.video, 0, 0, this.frame.width, this.frame.height);
    return this.frame.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  }

  show(result, ageMs) {
    // Once there is a caption, the next one takes its place whole: words that come and go would flicker.
    this.text.dataset.whole = "yes";
    this.text.textContent = result.spoken;
    this.text.dataset.captions = Number(this.text.dataset.captions ?? 0) + 1;
    this.facts.replaceChildren(...facts(result), element("span", "age", `${Math.round(ageMs)} ms old`));
    this.sayInTurn(result.spoken);
  }

  /** What a screen reader says: the newest words, but not while it still says the ones before. */
  sayInTurn(text) {
    clearTimeout(this.later);
    if (text === this.said.text) return;
    const wait = Math.max(0, SAY_EVERY_MS - (performance.now() - this.said.at));
    this.later = setTimeout(() => {
      this.said = { text, at: performance.now() };
      this.say(text);
    }, wait);
  }
}
