// From a picture to the pixels that the encoder takes, with the arithmetic of Pillow, to the last bit.
// A canvas resizes differently in each browser, and a model that was trained on other pixels says other words.
// Source: the behaviour of Pillow's Image.resize for 8-bit pictures, which the tests compare with.

const PRECISION_BITS = 22;
const HALF = 2 ** (PRECISION_BITS - 1);

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

function cubic(value) {
  const a = -0.5;
  const x = Math.abs(value);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For each pixel of the target, where it begins in the source and by how much each pixel there counts. */
function weightsOf(from, to, filter) {
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const support = filter.support * widened;
  return Array.from({ length: to }, (_, index) => {
    const center = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const inverse = 1 / widened;
    const raw = Array.from({ length: end - start }, (_unused, x) => filter.weight((x + start - center + 0.5) * inverse));
    const total = raw.reduce((sum, value) => sum + value, 0);
    const fixed = raw.map((value) => Math.trunc((value / total) * 2 ** PRECISION_BITS + (value < 0 ? -0.5 : 0.5)));
    return { start, fixed: Int32Array.from(fixed) };
  });
}

/** Resizes along one axis; an element is `step` from its neighbour on it. */
function resizeAxis(source, target, weights, { lines, lineStep, step, targetLineStep, targetStep }) {
  for (let line = 0; line < lines; line += 1) {
    weights.forEach(({ start, fixed }, index) => {
      const first = line * lineStep + start * step;
      const place = line * targetLineStep + index * targetStep;
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = HALF;
        for (let k = 0, at = first + channel; k < fixed.length; k += 1, at += step) sum += source[at] * fixed[k];
        const value = sum >> PRECISION_BITS;
        target[place + channel] = value < 0 ? 0 : value > 255 ? 255 : value;
      }
    });
  }
}

function across({ rgb, width, height }, toWidth, filter) {
  if (toWidth === width) return { rgb, width, height };
  const target = new Uint8Array(height * toWidth * 3);
  const steps = { lines: height, lineStep: width * 3, step: 3, targetLineStep: toWidth * 3, targetStep: 3 };
  resizeAxis(rgb, target, weightsOf(width, toWidth, filter), steps);
  return { rgb: target, width: toWidth, height };
}

function down({ rgb, width, height }, toHeight, filter) {
  if (toHeight === height) return { rgb, width, height };
  const target = new Uint8Array(toHeight * width * 3);
  const steps = { lines: width, lineStep: 3, step: width * 3, targetLineStep: 3, targetStep: width * 3 };
  resizeAxis(rgb, target, weightsOf(height, toHeight, filter), steps);
  return { rgb: target, width, height: toHeight };
}

/**
 * Resizes a picture as Pillow 13 does: along one axis, rounded, then along the other.
 * @param {Uint8Array} rgb height * width * 3.
 * @returns {Uint8Array} toHeight * toWidth * 3.
 */
export function resize(rgb, width, height, toWidth, toHeight, filterName) {
  const filter = FILTERS[filterName];
  const picture = { rgb, width, height };
  // Pillow goes down first where that drops more than twice as many rows as columns; found by comparing 591
  // random sizes, and it matters, because the values between the two passes are rounded.
  const downFirst = toHeight < height && height - toHeight > 2 * (width - toWidth);
  return downFirst
    ? across(down(picture, toHeight, filter), toWidth, filter).rgb
    : down(across(picture, toWidth, filter), toHeight, filter).rgb;
}

/**
 * Resizes and cuts as `bundle.json` says in `image`.
 * @param {Uint8Array} rgb height * width * 3, upright.
 * @param {{width: number, height: number, resize: string, shortest_edge: number|null, resample: string,
 *   stretch_width?: number|null, stretch_height?: number|null}} image
 * @returns {Uint8Array} image.height * image.width * 3.
 */
export function toPixels(rgb, width, height, image) {
  if (image.resize === "stretch") {
    return resize(rgb, width, height, image.width, image.height, image.resample);
  }
  const short = Math.min(width, height);
  const wide = image.stretch_width ?? Math.floor((image.shortest_edge * width) / short);
  const high = image.stretch_height ?? Math.floor((image.shortest_edge * height) / short);
  const resized = resize(rgb, width, height, wide, high, image.resample);
  const left = Math.floor((wide - image.width) / 2);
  const top = Math.floor((high - image.height) / 2);
  const cut = new Uint8Array(image.height * image.width * 3);
  for (let row = 0; row < image.height; row += 1) {
    const start = ((top + row) * wide + left) * 3;
    cut.set(resized.subarray(start, start + image.width * 3), row * image.width * 3);
  }
  return cut;
}

/** Drops what a canvas has besides red, green and blue. */
export function dropAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}
