// Captions JPEG photos in Node: no Python, no decode loop, just one ONNX graph from pixels to token ids.
//
//   kiloword export --single-graph -o outputs/export          makes the folder outputs/export/fp32-single-graph
//   npm install --ignore-scripts                               in this folder, once
//   node caption.mjs ../../outputs/export/fp32-single-graph photo.jpg...
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import jpeg from "jpeg-js";
import * as ort from "onnxruntime-node";

// Keys' cubic with a = -0.5, stretched over the source pixels that become one: the "bicubic" of Pillow.
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);

/** Resizes the rows of an image: `lines` rows of `from` pixels of `channels` values become `to` pixels, transposed. */
function resizeRows(values, lines, from, to, channels) {
  const result = new Uint8ClampedArray(lines * to * 3);
  const scale = from / to, reach = Math.max(scale, 1);
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(Math.floor(centre - 2 * reach + 0.5), 0);
    const last = Math.min(Math.floor(centre + 2 * reach + 0.5), from);
    const weights = [];
    for (let at = first; at < last; at++) weights.push(cubic(Math.abs(at - centre + 0.5) / reach));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    for (let y = 0; y < lines; y++)
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        for (let n = 0; n < weights.length; n++) sum += weights[n] * values[(y * from + first + n) * channels + channel];
        result[(x * lines + y) * 3 + channel] = sum / total; // rounds and cuts off at 0 and 255
      }
  }
  return result;
}

const [folder, ...photos] = process.argv.slice(2);
if (!photos.length) throw new Error("usage: node caption.mjs FOLDER PHOTO.jpg...");
const facts = JSON.parse(await readFile(join(folder, "captioner.json"), "utf8"));
const tokenizer = new Tokenizer(JSON.parse(await readFile(join(folder, "tokenizer.json"), "utf8")), {});
const session = await ort.InferenceSession.create(join(folder, facts.graph));
const { height, width, resize, resample } = facts.image;
if (resize !== "stretch" || resample !== "bicubic") throw new Error("this example only stretches, with a bicubic filter");

for (const photo of photos) {
  const image = jpeg.decode(await readFile(photo), { useTArray: true, formatAsRGBA: true });
  const narrow = resizeRows(image.data, image.height, image.width, width, 4); // (width, height of the photo, 3)
  const pixels = resizeRows(narrow, width, image.height, height, 3); // (height, width, 3)
  const tensor = new ort.Tensor("uint8", new Uint8Array(pixels.buffer), [1, height, width, 3]);
  const { token_ids } = await session.run({ pixels: tensor });
  const ids = Array.from(token_ids.data, Number).filter((id) => id !== facts.eos_token_id && id !== facts.pad_token_id);
  console.log(`${photo}\t${tokenizer.decode(ids, { skip_special_tokens: true }).trim()}`);
}
