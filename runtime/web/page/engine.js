// Captions in this browser alone: no photo leaves the page.

/** A photo that gets no caption; its message is for people. */
export class CaptionError extends Error {}

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const questions = new Map();
let count = 0;

worker.addEventListener("message", ({ data: { id, text, result, error } }) => {
  const { onText, resolve, reject } = questions.get(id);
  if (text !== undefined) { onText?.(text); return; }
  questions.delete(id);
  if (error === undefined) resolve(result);
  else reject(new CaptionError(error));
});

worker.addEventListener("error", (event) => {
  for (const { reject } of questions.values()) reject(new CaptionError(event.message || "the model could not be started"));
  questions.clear();
});

function ask(question, onText) {
  count += 1;
  const id = count;
  return new Promise((resolve, reject) => {
    questions.set(id, { onText, resolve, reject });
    worker.postMessage({ id, ...question });
  });
}

/**
 * Loads the model.
 * @param {(text: string) => void} [onProgress]
 * @returns {Promise<{name: string, image: object, attention: boolean, where: string}>}
 */
export async function open(onProgress) {
  const bundle = await ask({ kind: "open" }, onProgress);
  return { ...bundle, where: `${bundle.name}, in this browser alone` };
}

/**
 * Captions one picture.
 * @param {Blob} blob The encoded picture.
 * @param {{onText?: (text: string) => void, attention?: boolean}} options
 * @returns {Promise<object>} As the server's answer.
 */
export function caption(blob, { onText, attention = false } = {}) {
  return ask({ kind: "caption", blob, attention }, onText);
}
