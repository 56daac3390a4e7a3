// Captions photos with onnxruntime-web and the modules of `kiloword web`, on one thread of WebAssembly, as the
// page does on a host that does not isolate it. Prints one line of JSON for each photo.
//   node benchmarks/browser.mjs RUNTIME PAGE BUNDLE PIXELS
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { performance } from "node:perf_hooks";

const [runtime, page, bundle, pixelsFile] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(file).href);
const ort = await load(`${runtime}/dist/ort.wasm.min.mjs`);
const { Model } = await load(`${page}/search.js`);
ort.env.wasm.numThreads = 1;

const manifest = JSON.parse(readFileSync(`${bundle}/bundle.json`, "utf8"));
const session = (file) =>
  ort.InferenceSession.create(readFileSync(`${bundle}/${file}`), { executionProviders: ["wasm"] });
const model = new Model(ort, manifest, await session("encoder.onnx"), await session("decoder.onnx"));

const pixels = readFileSync(pixelsFile);
const size = manifest.image.height * manifest.image.width * 3;
for (let start = 0; start < pixels.length; start += size) {
  const began = performance.now();
  const encoded = await model.encode(new Uint8Array(pixels.subarray(start, start + size)));
  const seen = performance.now();
  const { ids } = await model.write(encoded);
  console.log(
    JSON.stringify({ ids: [...ids].map(Number), encoder_ms: seen - began, decoder_ms: performance.now() - seen }),
  );
}
