// From token ids to text, as the tokenizers library decodes: by what tokenizer.json says, and by nothing else.

// What Python's str.strip takes away; trim() knows other characters.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const AROUND = new RegExp(`^${SPACE}|${SPACE}$`, "g");

/** The character that stands for each byte in a byte-level vocabulary, as GPT-2 assigned them. */
function bytesByCharacter() {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const found = new Map();
  let others = 0;
  for (let byte = 0; byte < 256; byte += 1) {
    found.set(String.fromCodePoint(printable(byte) ? byte : 256 + others), byte);
    others += printable(byte) ? 0 : 1;
  }
  return found;
}

const BYTES = bytesByCharacter();
const asText = (bytes) => new TextDecoder().decode(Uint8Array.from(bytes));

function byteLevel(tokens) {
  const bytes = tokens.flatMap((token) => {
    const known = [...token].map((character) => BYTES.get(character));
    return known.includes(undefined) ? [...new TextEncoder().encode(token)] : known;
  });
  return [asText(bytes)];
}

function wordPiece({ prefix, cleanup }) {
  const clean = (text) => text
    .replaceAll(" .", ".").replaceAll(" ?", "?").replaceAll(" !", "!").replaceAll(" ,", ",")
    .replaceAll(" ' ", "'").replaceAll(" n't", "n't").replaceAll(" 'm", "'m").replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s").replaceAll(" 've", "'ve").replaceAll(" 're", "'re");
  return (tokens) => tokens.map((token, index) => {
    const joined = index > 0 && token.startsWith(prefix) ? token.slice(prefix.length) : (index > 0 ? " " : "") + token;
    return cleanup ? clean(joined) : joined;
  });
}

function metaspace({ replacement, prepend_scheme: scheme = "always" }) {
  return (tokens) => tokens.map((token, index) => {
    const spaced = token.replaceAll(replacement, " ");
    return index === 0 && scheme !== "never" && spaced.startsWith(" ") ? spaced.slice(1) : spaced;
  });
}

function byteFallback(tokens) {
  const found = [];
  let bytes = [];
  const flush = () => {
    if (!bytes.length) return;
    const text = asText(bytes);
    found.push(...(text.includes("\ufffd") ? bytes.map(() => "\ufffd") : [text]));
    bytes = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
    if (byte) bytes.push(parseInt(byte[1], 16));
    else { flush(); found.push(token); }
  }
  flush();
  return found;
}

function strip({ content, start, stop }) {
  return (tokens) => tokens.map((token) => {
    const characters = [...token];
    let [from, to] = [0, characters.length];
    while (from < start && characters[from] === content) from += 1;
    while (characters.length - to < stop && to > from && characters[to - 1] === content) to -= 1;
    return characters.slice(from, to).join("");
  });
}

const DECODERS = {
  ByteLevel: () => byteLevel,
  WordPiece: wordPiece,
  Metaspace: metaspace,
  ByteFallback: () => byteFallback,
  Strip: strip,
  Fuse: () => (tokens) => [tokens.join("")],
  Replace: ({ pattern, content }) => (tokens) => tokens.map((token) => token.replaceAll(pattern.String, content)),
  BPEDecoder: ({ suffix }) => (tokens) => tokens.map((token, index) => token.replaceAll(suffix, index < tokens.length - 1 ? " " : "")),
  Sequence: ({ decoders }) => {
    const steps = decoders.map(makeDecoder);
    return (tokens) => steps.reduce((found, step) => step(found), tokens);
  },
};

function makeDecoder(settings) {
  const make = DECODERS[settings.type];
  if (!make) throw new Error(`this page cannot decode a tokenizer of type ${settings.type}`);
  return make(settings);
}

export class Tokenizer {
  /** @param {object} file What is in tokenizer.json. */
  constructor(file) {
    const { vocab } = file.model;
    const entries = Array.isArray(vocab) ? vocab.map(([token], id) => [token, id]) : Object.entries(vocab);
    this.tokens = new Map(entries.map(([token, id]) => [id, token]));
    for (const { id, content } of file.added_tokens ?? []) this.tokens.set(id, content);
    this.special = new Set((file.added_tokens ?? []).filter((token) => token.special).map((token) => token.id));
    // Without a decoder, tokens are words.
    const decoder = file.decoder ? makeDecoder(file.decoder) : null;
    this.join = decoder ? (tokens) => decoder(tokens).join("") : (tokens) => tokens.join(" ");
  }

  /** The text, without special tokens and without spaces around it. */
  decode(ids) {
    const tokens = ids.filter((id) => !this.special.has(id)).map((id) => this.tokens.get(id)).filter((token) => token !== undefined);
    return this.join(tokens).replace(AROUND, "");
  }

  /** Each word of the text with the places of its tokens; words are what stands between spaces. */
  wordsOf(ids) {
    const text = this.decode(ids);
    const words = [...text.matchAll(/\S+/g)].map((found) => ({ text: found[0], end: found.index + found[0].length, start: found.index, places: [] }));
    let end = 0;
    ids.forEach((id, place) => {
      const start = end;
      end = Math.max(end, commonLength(this.decode(ids.slice(0, place + 1)), text));
      if (this.special.has(id) || start >= text.length) return;
      const first = start + (/^\s*/.exec(text.slice(start))[0].length);
      const last = Math.max(end, first + 1);
      for (const word of words) if (first < word.end && last > word.start) word.places.push(place);
    });
    return words.filter((word) => word.places.length).map(({ text: word, places }) => ({ word, places: telling(places, ids, this) }));
  }
}

/** Tokens that are more than punctuation, unless there are no others. */
function telling(places, ids, tokenizer) {
  const more = places.filter((place) => /[^\p{P}\p{Z}\s]/u.test(tokenizer.decode([ids[place]])));
  return more.length ? more : places;
}

function commonLength(first, second) {
  let at = 0;
  while (at < first.length && at < second.length && first[at] === second[at]) at += 1;
  return at;
}
