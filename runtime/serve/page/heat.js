// Where the model looked: a picture that is bright there and dark elsewhere.

const DARKNESS = 0.78;

/**
 * The part of a picture that the encoder sees.
 * @param {number} width The picture's, upright.
 * @param {number} height The picture's, upright.
 * @param {{resize: string, width: number, height: number, shortest_edge: number|null,
 *   stretch_width?: number|null, stretch_height?: number|null}} image The bundle's facts.
 * @returns {{left: number, top: number, width: number, height: number}} As shares of the picture.
 */
export function seenPart(width, height, image) {
  if (image.resize === "stretch") return { left: 0, top: 0, width: 1, height: 1 };
  const scale = image.shortest_edge / Math.min(width, height);
  const resized = { width: image.stretch_width ?? width * scale, height: image.stretch_height ?? height * scale };
  const share = { width: image.width / resized.width, height: image.height / resized.height };
  return { ...share, left: (1 - share.width) / 2, top: (1 - share.height) / 2 };
}

/**
 * Draws one word's map over a picture.
 * @param {HTMLCanvasElement} canvas Lies over the picture.
 * @param {number[][]} map Rows of weights.
 * @param {{left: number, top: number, width: number, height: number}} part What `seenPart` returned.
 */
export function drawHeat(canvas, map, part) {
  const rows = map.length;
  const columns = map[0].length;
  const most = Math.max(...map.flat(), 1e-9);
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  map.flat().forEach((weight, index) => {
    pixels.data[4 * index + 3] = 255 * DARKNESS * (1 - Math.sqrt(weight / most));
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const box = [part.left * width, part.top * height, part.width * width, part.height * height];
  context.fillStyle = `rgb(0 0 0 / ${DARKNESS})`;
  context.fillRect(0, 0, width, height);
  context.clearRect(...box);
  context.drawImage(small, ...box);
}

/** The same in words, for those who do not see the picture: where most of the weight lies. */
export function inWords(map) {
  let [x, y, total] = [0, 0, 0];
  map.forEach((row, rowIndex) => row.forEach((weight, column) => {
    x += weight * (column + 0.5) / row.length;
    y += weight * (rowIndex + 0.5) / map.length;
    total += weight;
  }));
  const third = (value, names) => names[value < 0.4 ? 0 : value > 0.6 ? 2 : 1];
  const vertical = third(y / total, ["top", "middle", "bottom"]);
  const horizontal = third(x / total, ["left", "middle", "right"]);
  return vertical === horizontal ? "the middle" : `the ${vertical} ${horizontal}`.replace(" middle", "").replace("middle ", "");
}
