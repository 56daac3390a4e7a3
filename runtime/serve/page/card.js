// One photo with its caption.

import { drawHeat, inWords, seenPart } from "./heat.js";

const MAX_CANVAS = 640;

/** Makes an element with a class and text. */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** How sure, as a bar and a number; and how long it took. */
export function facts(result) {
  const percent = Math.round(100 * result.confidence);
  const sureness = element("span", "sureness");
  const bar = element("progress");
  bar.max = 1;
  bar.value = result.confidence;
  bar.setAttribute("aria-label", "confidence");
  sureness.append(bar, element("span", "", `${percent} % sure`));
  return [sureness, element("span", "milliseconds", `${Math.round(result.latency_ms)} ms`)];
}

export class Card {
  /**
   * @param {Blob} blob The photo.
   * @param {string} name The file's name.
   * @param {object} bundle What the engine says of itself.
   * @param {(text: string) => void} say Tells those who use a screen reader.
   */
  constructor(blob, name, bundle, say) {
    this.blob = blob;
    this.name = name;
    this.result = null;
    this.bundle = bundle;
    this.say = say;
    this.build();
  }

  build() {
    this.root = element("li", "card busy");
    this.root.setAttribute("aria-busy", "true");
    this.url = URL.createObjectURL(this.blob);
    this.image = element("img");
    this.image.src = this.url;
    this.image.alt = this.name;
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    const picture = element("div", "picture");
    picture.append(this.image, this.canvas);
    this.text = element("p", "caption waiting", "Waiting…");
    this.facts = element("div", "facts");
    this.facts.append(element("span", "name", this.name));
    const said = element("div", "said");
    said.append(this.text, this.facts);
    this.root.append(picture, said);
  }

  /** Shows the words so far. */
  grow(text) {
    this.text.classList.remove("waiting");
    this.text.textContent = text;
  }

  /** Shows the caption. */
  finish(result) {
    this.result = result;
    this.settle("");
    this.image.alt = result.spoken;
    if (result.attention && result.reliable !== false) this.text.replaceChildren(...this.words(result));
    else this.text.textContent = result.spoken;
    this.facts.append(...facts(result));
    if (result.reason) this.facts.append(element("span", "", result.reason));
    this.say(`${this.name}: ${result.spoken}, ${Math.round(100 * result.confidence)} percent sure`);
  }

  /** Shows why there is no caption. */
  fail(message) {
    this.settle("failed");
    this.text.textContent = `No caption: ${message}`;
    this.say(`${this.name}: no caption, ${message}`);
  }

  settle(className) {
    this.root.classList.remove("busy");
    this.root.removeAttribute("aria-busy");
    this.text.className = `caption ${className}`;
  }

  words(result) {
    const before = result.spoken.endsWith(result.caption) ? result.spoken.slice(0, -result.caption.length) : "";
    const buttons = result.words.map((word, index) => {
      const button = element("button", "word", word);
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => this.toggle(button, result.attention[index]));
      return button;
    });
    this.text.addEventListener("keydown", (event) => this.onKey(event, buttons));
    return [before, ...buttons.flatMap((button) => [button, " "])];
  }

  onKey(event, buttons) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) buttons[buttons.indexOf(event.target) + step]?.focus();
    if (event.key === "Escape") this.hide();
  }

  toggle(button, map) {
    const shown = button.getAttribute("aria-pressed") === "true";
    this.hide();
    if (shown) return;
    button.setAttribute("aria-pressed", "true");
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const scale = Math.min(1, MAX_CANVAS / Math.max(width, height));
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    drawHeat(this.canvas, map, seenPart(width, height, this.bundle.image));
    this.canvas.classList.add("shown");
    this.say(`For “${button.textContent}” the model looked mostly at ${inWords(map)}`);
  }

  hide() {
    this.canvas.classList.remove("shown");
    for (const word of this.text.querySelectorAll("[aria-pressed=true]")) word.setAttribute("aria-pressed", "false");
  }

  remove() {
    this.root.remove();
    URL.revokeObjectURL(this.url);
  }
}
