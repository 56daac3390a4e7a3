// How far to trust a caption, by the numbers in bundle.json: the same as runtime/reliability.py.

export const NOT_A_PHOTO = "does not look like a photo";
const FLAT_STEP = 2;
const STRONG_STEP = 40;
const COARSE = 4;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Geometric mean of the tokens' probabilities. */
export const meanProbability = (logprobs) => (logprobs.length ? Math.min(1, Math.exp(mean(logprobs))) : 0);

/**
 * @param {object|null} spec What bundle.json has under `reliability`.
 * @param {Uint8Array} pixels height * width * 3, as the encoder got them.
 * @param {(output: string) => {data: Float32Array, dims: number[]}} output The encoder's outputs by name.
 * @param {number[]} logprobs Of the caption's tokens.
 * @returns {{confidence: number, reliable: boolean, reason: string|null, sure: boolean}}
 */
export function judge(spec, pixels, width, height, output, logprobs) {
  if (!spec) return { confidence: meanProbability(logprobs), reliable: true, reason: null, sure: true };
  const features = { ...pictureFeatures(pixels, width, height), ...captionFeatures(logprobs) };
  const pooled = spec.pooled_output ? pool(output(spec.pooled_output)) : null;
  const confidence = predict(spec.good, features, pooled);
  const unreliable = (reason) => ({ confidence, reliable: false, reason, sure: false });
  if (predict(spec.photo, features, pooled) < spec.photo_from) return unreliable(NOT_A_PHOTO);
  if (confidence < spec.reliable_from) {
    return unreliable(`too uncertain: confidence ${confidence.toFixed(2)}, expected ${spec.reliable_from.toFixed(2)} or more`);
  }
  return { confidence, reliable: true, reason: null, sure: confidence >= spec.sure_from };
}

function predict(model, features, pooled) {
  let total = model.bias;
  for (const [name, weight] of Object.entries(model.weights)) total += weight * features[name];
  if (pooled) (model.pooled_weights ?? []).forEach((weight, index) => { total += weight * pooled[index]; });
  return 1 / (1 + Math.exp(-Math.min(Math.max(total, -60), 60)));
}

/** Mean over the image's tokens of (1, heads, tokens, head width). */
function pool({ data, dims: [, heads, count, width] }) {
  return Float64Array.from({ length: heads * width }, (_, at) => {
    const first = Math.floor(at / width) * count * width + (at % width);
    let sum = 0;
    for (let token = 0; token < count; token += 1) sum += data[first + token * width];
    return sum / count;
  });
}

function captionFeatures(logprobs) {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  if (!logprobs.length) return { logprob_mean: 0, logprob_min: 0, logprob_sum: 0, logprob_first: 0, tokens: 0 };
  return {
    logprob_mean: mean(logprobs),
    logprob_min: Math.min(...logprobs),
    logprob_sum: sum(logprobs),
    logprob_first: sum(logprobs.slice(0, 3)),
    tokens: logprobs.length,
  };
}

/** Light, colours, edges; of the same pixels the same numbers as Python's. */
export function pictureFeatures(rgb, width, height) {
  const count = width * height;
  const luma = Int16Array.from({ length: count }, (_, at) => (77 * rgb[3 * at] + 150 * rgb[3 * at + 1] + 29 * rgb[3 * at + 2]) >> 8);
  const some = quarter(width, height);
  return { ...light(some.map((at) => luma[at])), ...colours(rgb, some), ...edges(luma, width, height) };
}

/** Where every second pixel of every second row lies: light and colours are counted there. */
function quarter(width, height) {
  const columns = Math.ceil(width / 2);
  const at = (index) => 2 * Math.floor(index / columns) * width + 2 * (index % columns);
  return Int32Array.from({ length: columns * Math.ceil(height / 2) }, (_, index) => at(index));
}

function light(luma) {
  const shares = new Float64Array(256);
  for (const value of luma) shares[value] += 1 / luma.length;
  const moment = (power) => shares.reduce((sum, share, level) => sum + share * (level / 255) ** power, 0);
  const total = (part) => part.reduce((sum, share) => sum + share, 0);
  const brightness = moment(1);
  return {
    brightness,
    contrast: Math.sqrt(Math.max(moment(2) - brightness * brightness, 0)),
    light_entropy: entropy(shares),
    black_share: total(shares.subarray(0, 8)),
    white_share: total(shares.subarray(248)),
    main_light_share: Math.max(...shares),
  };
}

function colours(rgb, places) {
  const shares = new Float64Array(4096);
  let spread = 0;
  for (const at of places) {
    const [red, green, blue] = rgb.subarray(3 * at, 3 * at + 3);
    shares[((red >> 4) << 8) | ((green >> 4) << 4) | (blue >> 4)] += 1 / places.length;
    spread += Math.max(red, green, blue) - Math.min(red, green, blue);
  }
  return {
    colourfulness: spread / places.length / 255,
    colours: Math.log2(1 + shares.filter((share) => share > 0).length),
    colour_entropy: entropy(shares),
    main_colour_share: shares.reduce((most, share) => Math.max(most, share), 0),
  };
}

function edges(luma, width, height) {
  const byColumn = new Float64Array(width - 1);
  const byRow = new Float64Array(height - 1);
  let [flat, strong, coarseAcross, coarseDown] = [0, 0, 0, 0];
  const tally = (step) => { flat += step < FLAT_STEP; strong += step > STRONG_STEP; };
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const at = row * width + column;
      const to = (other) => Math.abs(luma[other] - luma[at]);
      if (column < width - 1) { const step = to(at + 1); byColumn[column] += step / height; tally(step); }
      if (row < height - 1) { const step = to(at + width); byRow[row] += step / width; tally(step); }
      if (column < width - COARSE) coarseAcross += to(at + COARSE) / (height * (width - COARSE));
      if (row < height - COARSE) coarseDown += to(at + COARSE * width) / (width * (height - COARSE));
    }
  }
  const steps = height * (width - 1) + width * (height - 1);
  const average = (mean(byColumn) + mean(byRow)) / 2;
  const uneven = (values) => {
    const middle = mean(values);
    return Math.sqrt(mean(values.map((value) => (value - middle) ** 2))) / (middle + 0.5);
  };
  return {
    edge_density: average / 255,
    flat_share: flat / steps,
    strong_share: strong / steps,
    coarseness: (coarseAcross + coarseDown) / 2 / (average + 0.5),
    column_unevenness: uneven(byColumn),
    row_unevenness: uneven(byRow),
  };
}

const entropy = (shares) => -shares.reduce((sum, share) => (share > 0 ? sum + share * Math.log2(share) : sum), 0);
