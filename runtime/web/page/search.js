// Greedy search over a bundle's graphs, by the roles in bundle.json: it knows context, state and logits, and no
// architecture. The same as runtime/generation.py with num_beams=1.

const STATES = ["cache", "recurrent"];
const PAST = "past_sequence_length";

const ofRole = (tensors, ...roles) => tensors.filter((tensor) => roles.includes(tensor.role));
const big = (ids) => BigInt64Array.from(ids, BigInt);

export class Model {
  /**
   * @param {object} ort onnxruntime-web.
   * @param {object} manifest What is in bundle.json.
   * @param {object} encoder Its session.
   * @param {object} decoder Its session.
   */
  constructor(ort, manifest, encoder, decoder) {
    Object.assign(this, { ort, manifest, encoder, decoder });
    const { inputs, outputs } = manifest.decoder;
    [this.tokenIds] = ofRole(inputs, "token_ids");
    [this.beamRows] = ofRole(inputs, "beam_rows");
    [this.logits] = ofRole(outputs, "logits");
    this.context = ofRole(inputs, "context");
    this.states = ofRole(inputs, ...STATES);
    this.nextStates = ofRole(outputs, ...STATES).filter((tensor) => tensor.feeds);
    this.looks = manifest.attention ? this.lookOutputs(outputs) : [];
    this.stride = this.tokenIds.axes[2] === 1 ? 1 : Infinity;
  }

  lookOutputs(outputs) {
    const { queries } = this.manifest.attention;
    return outputs.filter(({ name, role }) => role === "cross_attention" || (role === "cross_query" && name in queries));
  }

  /**
   * @param {Uint8Array} pixels height * width * 3.
   * @returns {Promise<Object<string, object>>} Context and first states, by the decoder's inputs.
   */
  async encode(pixels) {
    const { image, encoder } = this.manifest;
    const [input] = ofRole(encoder.inputs, "pixels");
    const fed = encoder.outputs.filter((tensor) => tensor.feeds);
    const tensor = new this.ort.Tensor("uint8", pixels, [1, image.height, image.width, 3]);
    const found = await this.encoder.run({ [input.name]: tensor }, fed.map(({ name }) => name));
    return Object.fromEntries(fed.map(({ name, feeds }) => [feeds, found[name]]));
  }

  /**
   * Writes a caption.
   * @param {Object<string, object>} encoded What `encode` returned.
   * @param {(ids: number[]) => void} onStep Gets all ids so far, after each.
   * @returns {Promise<{ids: number[], logprobs: number[], looks: Float32Array[]}>} Without the prompt; looks
   *   has for each token the weights of the image's tokens, where the bundle can tell.
   */
  async write(encoded, onStep = () => {}) {
    const { tokens, generation } = this.manifest;
    const found = { ids: [], logprobs: [], looks: [] };
    let state = this.initialState(encoded);
    let unread = [...tokens.prompt_token_ids];
    for (;;) {
      const step = await this.read(unread, encoded, state);
      state = step.state;
      const all = [...tokens.prompt_token_ids, ...found.ids];
      const { id, logprob } = this.choose(step.logits, all);
      if (id < 0) return { ids: [], logprobs: [], looks: [] }; // every way on is ruled out
      found.ids.push(id);
      found.logprobs.push(logprob);
      if (this.looks.length) found.looks.push(step.look);
      onStep(found.ids);
      if (id === tokens.eos_token_id || found.ids.length === generation.max_new_tokens) return found;
      unread = [id];
    }
  }

  initialState(encoded) {
    const empty = ({ axes, dtype }) => {
      const dims = [1, ...axes.slice(1).map((axis) => (axis === PAST ? 0 : axis))];
      const size = dims.reduce((product, axis) => product * axis, 1);
      return new this.ort.Tensor(dtype, dtype === "int64" ? new BigInt64Array(size) : new Float32Array(size), dims);
    };
    return Object.fromEntries(this.states.map((tensor) => [tensor.name, encoded[tensor.name] ?? empty(tensor)]));
  }

  /** Lets the decoder read tokens, all at once or one by one, as its graph wants them. */
  async read(ids, encoded, state) {
    let [current, found] = [state, null];
    const context = Object.fromEntries(this.context.map(({ name }) => [name, encoded[name]]));
    const outputs = [this.logits, ...this.nextStates, ...this.looks].map(({ name }) => name);
    for (let start = 0; start < ids.length; start += this.stride) {
      const piece = ids.slice(start, start + this.stride);
      const feeds = {
        [this.tokenIds.name]: new this.ort.Tensor("int64", big(piece), [1, 1, piece.length]),
        [this.beamRows.name]: new this.ort.Tensor("int64", big([0]), [1, 1]),
        ...context,
        ...current,
      };
      found = await this.decoder.run(feeds, outputs);
      current = Object.fromEntries(this.nextStates.map(({ name, feeds: input }) => [input, found[name]]));
    }
    return { state: current, logits: found[this.logits.name].data, look: this.lookOf(found, encoded) };
  }

  /** The best token that is not ruled out, and the logarithm of its probability before anything was. */
  choose(logits, all) {
    const { tokens, generation } = this.manifest;
    let highest = -Infinity;
    for (const value of logits) if (value > highest) highest = value;
    let total = 0;
    for (const value of logits) total += Math.exp(value - highest);
    const written = all.length - tokens.prompt_token_ids.length;
    const isLast = written + 1 === generation.max_new_tokens;
    const forced = (isLast ? tokens.forced_last_token_id : null) ?? (written ? null : tokens.forced_first_token_id);
    if (forced != null) return { id: forced, logprob: 0 };
    const banned = new Set([...tokens.suppressed_token_ids, ...repeating(all, generation.no_repeat_ngram_size, tokens.eos_token_id)]);
    if (written < (generation.min_new_tokens ?? 0)) banned.add(tokens.eos_token_id);
    let id = -1;
    logits.forEach((value, index) => { if (!banned.has(index) && (id < 0 || value > logits[id])) id = index; });
    return { id, logprob: id < 0 ? -Infinity : logits[id] - highest - Math.log(total) };
  }

  /** Where the decoder looked at the last position: mean over heads and layers. */
  lookOf(found, encoded) {
    if (!this.looks.length) return null;
    const all = this.looks.map(({ name, role }) => (
      role === "cross_attention" ? found[name].data : queryWeights(found[name], encoded[this.manifest.attention.queries[name]])
    ));
    return Float32Array.from(all[0], (_, place) => all.reduce((sum, one) => sum + one[place], 0) / all.length);
  }
}

/** softmax(QK^T / sqrt(d)) of the last position, mean over heads. Source: arXiv 1706.03762, equation 1. */
function queryWeights(query, key) {
  const [, heads, count, width] = key.dims;
  const last = query.data.subarray(query.data.length - heads * width);
  const mean = new Float32Array(count);
  for (let head = 0; head < heads; head += 1) {
    const scores = new Float64Array(count);
    for (let token = 0; token < count; token += 1) {
      const at = (head * count + token) * width;
      for (let k = 0; k < width; k += 1) scores[token] += last[head * width + k] * key.data[at + k];
    }
    const highest = Math.max(...scores) / Math.sqrt(width);
    const powers = scores.map((score) => Math.exp(score / Math.sqrt(width) - highest));
    const total = powers.reduce((sum, value) => sum + value, 0);
    powers.forEach((value, token) => { mean[token] += value / total / heads; });
  }
  return mean;
}

/** Each token that would complete a sequence of `size` tokens a second time, but never the end. */
function repeating(ids, size, eos) {
  const start = ids.length - size + 1;
  const found = new Set();
  if (size === 0 || start < 1) return found;
  for (let at = 0; at < start; at += 1) {
    const same = ids.slice(at, at + size - 1).every((id, index) => id === ids[start + index]);
    if (same && ids[at + size - 1] !== eos) found.add(ids[at + size - 1]);
  }
  return found;
}
