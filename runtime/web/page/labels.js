// Names of what may be in a photo: a linear layer over what the encoder hands to the decoder, as runtime/labels.py has it.

const READERS = { "|i1": Int8Array, "<f4": Float32Array };
const LOCAL_FILE = 0x04034b50;
const STORED = 0;
const IN_64_BITS = 0xffffffff;

export class Labeller {
  /**
   * @param {object} spec What bundle.json has under `labels`.
   * @param {ArrayBuffer} weights The file of the layer, as numpy writes .npz.
   * @param {string} names A class a line.
   */
  static async read(spec, weights, names) {
    return new Labeller(spec, await readArrays(weights), names.replace(/\r?\n$/, "").split(/\r?\n/));
  }

  constructor(spec, { weight, scale, bias }, names) {
    Object.assign(this, { spec, weight, scale, bias, names });
    if (![this.weight, this.scale, this.bias].every((array) => array && array.shape[0] === this.names.length)) {
      throw new Error(`${spec.weights} does not fit ${spec.names}`);
    }
  }

  /** @param {(output: string) => {data: Float32Array, dims: number[]}} output The encoder's outputs by name. */
  name(output) {
    const features = pick(output(this.spec.output));
    const logits = this.names.map((_, row) => {
      const from = row * features.length;
      let sum = 0;
      for (let at = 0; at < features.length; at += 1) sum += this.weight.data[from + at] * features[at];
      return sum * this.scale.data[row] + this.bias.data[row];
    });
    const highest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
    const odds = logits.map((logit) => Math.exp(logit - highest));
    const total = odds.reduce((sum, value) => sum + value, 0);
    const best = odds.map((value, row) => ({ probability: value / total, name: this.names[row] }))
      .sort((one, other) => other.probability - one.probability);
    return best.slice(0, this.spec.most).filter(({ probability }) => probability >= this.spec.least).map(({ name }) => name);
  }
}

/** The first image token, then the mean of the others, of (1, heads, tokens, head width). */
function pick({ data, dims: [, heads, count, width] }) {
  const features = new Float32Array(2 * heads * width);
  const start = count > 1 ? 1 : 0;
  for (let head = 0; head < heads; head += 1) {
    for (let at = 0; at < width; at += 1) {
      const place = head * width + at;
      const value = (token) => data[(head * count + token) * width + at];
      let sum = 0;
      for (let token = start; token < count; token += 1) sum += value(token);
      features[place] = value(0);
      features[heads * width + place] = sum / (count - start);
    }
  }
  return features;
}

/** The arrays of an .npz file by name, each with its data and shape. */
export async function readArrays(buffer) {
  const view = new DataView(buffer);
  const arrays = {};
  for (let at = 0; at + 30 <= view.byteLength && view.getUint32(at, true) === LOCAL_FILE;) {
    const [method, named, extra] = [8, 26, 28].map((place) => view.getUint16(at + place, true));
    const start = at + 30 + named + extra;
    let size = view.getUint32(at + 18, true);
    if (size === IN_64_BITS) size = Number(view.getBigUint64(at + 30 + named + 12, true));
    const name = latin(buffer, at + 30, named).replace(/\.npy$/, "");
    arrays[name] = readArray(await unpack(buffer.slice(start, start + size), method));
    at = start + size;
  }
  return arrays;
}

function unpack(data, method) {
  if (method === STORED) return data;
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer();
}

function readArray(buffer) {
  const view = new DataView(buffer);
  const wide = view.getUint8(6) > 1;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const from = wide ? 12 : 10;
  const header = latin(buffer, from, length);
  const type = /'descr': '([^']*)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].split(",").filter((part) => part.trim()).map(Number);
  const reader = READERS[type];
  if (!reader || !shape || /'fortran_order': True/.test(header)) throw new Error(`an array of type ${type} cannot be read`);
  return { data: new reader(buffer.slice(from + length)), shape };
}

const latin = (buffer, start, length) => String.fromCharCode(...new Uint8Array(buffer, start, length));
