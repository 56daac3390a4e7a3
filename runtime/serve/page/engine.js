// Captions from the server that this page came from. Another engine may stand in this place (kiloword web).

const TOKEN_KEY = "kiloword-token";
const MAX_TRIES = 6;

/** An answer that is no caption; its message is for people. */
export class CaptionError extends Error {}

/**
 * Says what captions here.
 * @returns {Promise<{name: string, image: object, attention: boolean, where: string}>}
 */
export async function open() {
  const response = await ask("v1/bundle");
  const bundle = await response.json();
  return { ...bundle, where: `${bundle.name} on ${location.host}` };
}

/**
 * Captions one picture.
 * @param {Blob} blob The encoded picture.
 * @param {{onText?: (text: string) => void, signal?: AbortSignal, attention?: boolean}} options
 *   onText gets the whole words so far, each time that there are more.
 * @returns {Promise<object>} caption, spoken, confidence, latency_ms; words and attention where asked for.
 */
export async function caption(blob, { onText, signal, attention = false } = {}) {
  const response = await ask(`v1/captions?attention=${attention}`, {
    method: "POST",
    body: blob,
    signal,
    headers: { Accept: "text/event-stream", "Content-Type": blob.type || "application/octet-stream" },
  });
  for await (const { name, data } of events(response.body)) {
    if (name === "text") onText?.(data.text);
    else if (name === "caption") return data;
    else if (name === "error") throw new CaptionError(data.error.detail);
  }
  throw new CaptionError("the server stopped in the middle of its answer");
}

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(path, withToken(options)).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new CaptionError("the server does not answer");
    });
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({ detail: response.statusText }));
    if (response.status === 401) await askForToken();
    else if (![429, 503].includes(response.status) || attempt >= MAX_TRIES) throw new CaptionError(problem.detail);
    else await new Promise((later) => setTimeout(later, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
  }
}

function withToken(options) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token ? { ...options, headers: { ...options.headers, Authorization: `Bearer ${token}` } } : options;
}

/** Take the token from the address, where it is behind the # that no browser sends, and out of sight. */
function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  sessionStorage.setItem(TOKEN_KEY, token);
  history.replaceState(null, "", location.pathname);
}

let asking = null;

function askForToken() {
  const dialog = document.getElementById("token-dialog");
  asking ??= new Promise((answered) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN_KEY, document.getElementById("token").value.trim());
      asking = null;
      answered();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** Server-sent events out of a response's body; fetch, because EventSource cannot POST. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      yield { name: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

takeTokenFromAddress();
