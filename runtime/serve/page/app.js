// The page: photos in, captions out.

import * as engine from "./engine.js";
import { Camera } from "./camera.js";
import { Card } from "./card.js";

const AT_ONCE = 4;
const IMAGE_NAME = /\.(jpe?g|png|webp|gif|tiff?|bmp|heic|heif|avif)$/i;

const find = (id) => document.getElementById(id);
const cards = [];
const waiting = [];
const toSay = [];
let working = 0;
let bundle = null;

/** Tell those who use a screen reader; one after the other, for a region that changes at once is read once. */
function say(text) {
  toSay.push(text);
  if (toSay.length === 1) sayNext();
}

function sayNext() {
  find("spoken").textContent = toSay[0] ?? "";
  if (toSay.length) setTimeout(() => { toSay.shift(); sayNext(); }, 1500);
}

function refresh() {
  document.body.classList.toggle("has-photos", cards.length > 0);
  find("photos").hidden = cards.length === 0;
  find("how-words").hidden = !bundle?.attention;
  showProgress();
}

function add(files) {
  const photos = files.filter((file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name));
  if (!photos.length) say("No photos in what you chose");
  for (const file of photos) {
    const card = new Card(file, file.webkitRelativePath || file.name || "pasted picture", bundle, say);
    cards.push(card);
    waiting.push(card);
    find("cards").append(card.root);
  }
  refresh();
  work();
}

function work() {
  while (bundle && working < AT_ONCE && waiting.length) run(waiting.shift());
  showProgress();
}

async function run(card) {
  working += 1;
  try {
    card.bundle = bundle;
    const onText = (text) => card.grow(text);
    card.finish(await engine.caption(card.blob, { onText, attention: Boolean(bundle.attention) }));
  } catch (error) {
    card.fail(error instanceof engine.CaptionError ? error.message : String(error));
    card.failed = true;
  }
  working -= 1;
  work();
}

function showProgress() {
  const done = cards.filter((card) => card.result || card.failed).length;
  find("progress").textContent = done < cards.length ? `${done} of ${cards.length}` : `${cards.length}`;
}

function clear() {
  waiting.length = 0;
  for (const card of cards.splice(0)) card.remove();
  refresh();
  find("choose-photos").focus();
}

/** A file with what `kiloword caption --format jsonl` would say. */
function save() {
  const lines = cards.filter((card) => card.result).map((card) => {
    const { caption, confidence, bundle: name, latency_ms } = card.result;
    return `${JSON.stringify({ path: card.name, caption, confidence, bundle: name, latency_ms })}\n`;
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = "captions.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** All files of a dropped folder, however deep. */
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((got, failed) => entry.file(got, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives at most a hundred entries at a time
    const entries = await new Promise((got, failed) => reader.readEntries(got, failed));
    if (!entries.length) return found;
    for (const inner of entries) if (!inner.name.startsWith(".")) found.push(...await filesOf(inner));
  }
}

async function onDrop(event) {
  event.preventDefault();
  find("drop").classList.remove("over");
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  // Entries must be asked for before anything is awaited: afterwards the items are gone.
  const entries = items.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const files = [];
  for (const [entry, file] of entries) files.push(...(entry?.isDirectory ? await filesOf(entry) : [file]));
  add(files.filter(Boolean));
}

const camera = new Camera(engine, say);

async function toggleCamera() {
  const button = find("start-camera");
  if (camera.running) camera.stop();
  else {
    find("camera").hidden = false;
    await camera.start().catch((error) => {
      const message = error.name === "NotAllowedError" ? "the browser was not allowed to use it" : error.message;
      find("live-caption").textContent = `No camera: ${message}`;
      say(`No camera: ${message}`);
    });
  }
  if (!camera.running && !find("live-caption").textContent.startsWith("No camera")) find("camera").hidden = true;
  button.setAttribute("aria-pressed", String(camera.running));
  button.textContent = camera.running ? "Stop the camera" : "Start the camera";
}

function listen() {
  find("choose-photos").addEventListener("click", () => find("photo-input").click());
  find("choose-folder").addEventListener("click", () => find("folder-input").click());
  for (const id of ["photo-input", "folder-input"]) {
    find(id).addEventListener("change", (event) => { add([...event.target.files]); event.target.value = ""; });
  }
  find("start-camera").addEventListener("click", toggleCamera);
  find("save").addEventListener("click", save);
  find("clear").addEventListener("click", clear);
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) add([...event.clipboardData.files]); });
  document.addEventListener("dragover", (event) => { event.preventDefault(); find("drop").classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) find("drop").classList.remove("over"); });
  document.addEventListener("drop", onDrop);
}

listen();
try {
  bundle = await engine.open((text) => { find("status").textContent = text; });
  find("status").textContent = bundle.where;
  document.documentElement.dataset.ready = "yes";
  find("how-words").hidden = !bundle.attention;
  work();
} catch (error) {
  find("status").textContent = error.message;
}
