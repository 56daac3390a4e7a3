// Captions in a thread of its own, so that the page stays quick. Nothing here asks any server for anything but
// the files of this folder.

import * as ort from "../vendor/ort.wasm.bundle.min.mjs";
import { Labeller } from "./labels.js";
import { NOT_A_PHOTO, judge } from "./reliability.js";
import { dropAlpha, toPixels } from "./resize.js";
import { Model } from "./search.js";
import { Tokenizer } from "./tokenizer.js";

const NO_DESCRIPTION = "no reliable description";
const BUNDLE = new URL("../bundle/", import.meta.url);

let model = null;
let tokenizer = null;
let labeller = null;
let turn = Promise.resolve();

/** Fetches a file of the bundle and checks it against bundle.json. */
async function fetchFile(name, manifest) {
  const response = await fetch(new URL(name, BUNDLE));
  if (!response.ok) throw new Error(`${name} cannot be fetched: ${response.status} ${response.statusText}`);
  const data = await response.arrayBuffer();
  if (manifest && crypto.subtle) { // there is none on plain http besides localhost
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== manifest.files[name].sha256) throw new Error(`${name} was changed or damaged on its way`);
  }
  return data;
}

/** A graph and, where they are in a file of their own, its weights. */
async function fetchGraph(file, manifest) {
  const path = `${file}.data`;
  const [graph, data] = await Promise.all([file, path].filter((name) => name in manifest.files).map((name) => fetchFile(name, manifest)));
  return { graph, externalData: data ? [{ path, data }] : [] };
}

async function open(tell) {
  ort.env.wasm.wasmPaths = new URL("../vendor/", import.meta.url).href;
  // Threads need headers that make a page isolated, which few static hosts send.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  tell("Loading the model…");
  const manifest = JSON.parse(new TextDecoder().decode(await fetchFile("bundle.json")));
  const { labels } = manifest;
  const names = ["tokenizer.json", ...(labels ? [labels.weights, labels.names] : [])];
  const [graphs, [words, weights, classes]] = await Promise.all([
    Promise.all([manifest.encoder, manifest.decoder].map(({ file }) => fetchGraph(file, manifest))),
    Promise.all(names.map((name) => fetchFile(name, manifest))),
  ]);
  tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(words)));
  labeller = labels ? await Labeller.read(labels, weights, new TextDecoder().decode(classes)) : null;
  tell("Starting the model…");
  // One after the other: two at once would need twice the memory for a moment.
  const sessions = [];
  for (const { graph, externalData } of graphs) {
    sessions.push(await ort.InferenceSession.create(graph, { executionProviders: ["wasm"], externalData }));
  }
  model = new Model(ort, manifest, ...sessions);
  return { name: manifest.name, image: manifest.image, attention: Boolean(manifest.attention) };
}

/** The picture upright, over white, as red, green and blue; colour profiles are left alone, as Pillow does. */
async function read(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { rgb: dropAlpha(context.getImageData(0, 0, width, height).data), width, height };
}

async function caption({ blob, attention }, onText) {
  const start = performance.now();
  const { image, name, reliability, encoder } = model.manifest;
  const { rgb, width, height } = await read(blob);
  const pixels = toPixels(rgb, width, height, image);
  const encoded = await model.encode(pixels);
  const written = await model.write(encoded, (ids) => {
    const text = tokenizer.decode(ids);
    if (text.includes(" ")) onText(text.slice(0, text.lastIndexOf(" ")));
  });
  const fed = (output) => encoded[encoder.outputs.find((tensor) => tensor.name === output).feeds];
  const text = tokenizer.decode(written.ids);
  const judged = judge(reliability, pixels, image.width, image.height, fed, written.logprobs);
  const labels = labeller && judged.reason !== NOT_A_PHOTO ? labeller.name(fed) : [];
  const none = labels.length ? `${NO_DESCRIPTION}; perhaps: ${labels.join(", ")}` : NO_DESCRIPTION;
  const spoken = !judged.reliable ? none : judged.sure ? text : `probably ${text}`;
  const looks = attention && written.looks.length ? maps(written) : {};
  const latency_ms = performance.now() - start;
  return { caption: text, spoken, labels, ...judged, bundle: name, token_ids: written.ids, latency_ms, ...looks };
}

/** For each word where the model looked, rows from the top. */
function maps({ ids, looks }) {
  const { grid_height: rows, grid_width: columns, leading_tokens: leading } = model.manifest.attention;
  const cells = looks.map((look) => {
    const places = [...look.subarray(leading)].map((weight) => weight + 1e-30);
    const total = places.reduce((sum, weight) => sum + weight, 0);
    return places.map((weight) => weight / total);
  });
  const words = tokenizer.wordsOf(ids);
  const grid = (places) => Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_unused, column) => (
    places.reduce((sum, place) => sum + cells[place][row * columns + column], 0) / places.length
  )));
  return { words: words.map(({ word }) => word), attention: words.map(({ places }) => grid(places)) };
}

async function answer({ id, kind, ...question }) {
  const tell = (text) => postMessage({ id, text });
  try {
    const result = kind === "open" ? await open(tell) : await caption(question, tell);
    postMessage({ id, result });
  } catch (error) {
    const undecodable = error instanceof DOMException && error.name === "InvalidStateError";
    postMessage({ id, error: undecodable ? "the photo cannot be decoded by this browser" : String(error.message ?? error) });
  }
}

// One question at a time: the graphs run on one thread, and photos in work cost memory.
addEventListener("message", ({ data }) => { turn = turn.then(() => answer(data)); });
