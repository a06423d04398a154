// Reads short text in images, in the browser alone. The model lies beside this folder, and says by itself
// which alphabet, input, lengths and threshold it has.

const MODEL = "../ocr_model.onnx";
// serve.py gives the npm package from this machine; a published page takes the same files from a CDN.
const PACKAGES = location.hostname === "127.0.0.1" ? "/" : "https://cdn.jsdelivr.net/npm/";
const RUNTIME = `${PACKAGES}onnxruntime-web@1.30.0/dist/`;
const SCRIPT = "ort.wasm.bundle.min.mjs";
const BINARY = "ort-wasm-simd-threaded.wasm";
const HASHES = {
  [SCRIPT]: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
  [BINARY]: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
};
const BLANK = 0; // the class for "no character here"
const LIGHT = 200; // grey level from which on a letter is not seen on white
const [MOST_INK, NEARLY_ALL] = [0.7, 0.95]; // shares: of an image that is letters, of these that is light
const MAX_PIXELS = 16_000_000; // of a canvas on a phone

const fetched = new Map(); // answers by their addresses

/** Fetches a file; `integrity` is the hash that it must have. */
async function get(url, integrity = "") {
  try {
    const cache = url === MODEL ? "no-cache" : "default"; // the browser may keep an old one for days
    const response = await fetch(url, { integrity, cache });
    if (!response.ok) throw new Error(`answer ${response.status}`);
    fetched.set(url, response.clone());
    return await response.arrayBuffer();
  } catch (error) {
    const place = new URL(url, location);
    const advice = url === MODEL ? "see that the model lies there" : "check the connection";
    throw new Error(`${place} can't be loaded (${error.message}): ${advice}, then load this page again.`);
  }
}

/** Finds the fields of a protobuf message that hold bytes, as pairs of number and bytes. */
function fields(message) {
  const found = [];
  let at = 0;
  const number = () => {
    let value = 0;
    for (let unit = 1, more = true; more; unit *= 128) {
      more = message[at] > 127;
      value += (message[at++] & 127) * unit;
    }
    return value;
  };
  while (at < message.length) {
    const tag = number();
    const value = number();
    if (tag % 8 === 2) found.push([tag >> 3, message.subarray(at, (at += value))]);
  }
  return found;
}

/** Reads the metadata of an ONNX file, all of them JSON. */
function metadata(file) {
  const texts = fields(file)
    .filter(([number]) => number === 14)
    .map(([, property]) => fields(property).map(([, bytes]) => new TextDecoder().decode(bytes)));
  return Object.fromEntries(texts.map(([name, json]) => [name, JSON.parse(json)]));
}

/** Loads onnxruntime and the model. */
async function load() {
  const runtime = [SCRIPT, BINARY].map((name) => get(RUNTIME + name, HASHES[name]));
  const [script, wasmBinary, file] = await Promise.all([...runtime, get(MODEL)]);
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const ort = await import(url);
  Object.assign(ort.env.wasm, { wasmBinary, numThreads: 1 });
  try {
    const about = metadata(new Uint8Array(file));
    return { ...about, ort, session: await ort.InferenceSession.create(file) };
  } catch (error) {
    throw new Error(`The model can't be loaded (${error.message}): export or copy it again.`);
  }
}

/** Computes the grey level of a pixel as Pillow does. */
const grey = (rgba, at) => (rgba[at] * 19595 + rgba[at + 1] * 38470 + rgba[at + 2] * 7471 + 32768) >> 16;

/** Opens an image file as bytes of the shape (height, width, channels), as `open_image` in images.py does. */
export async function openImage(blob, channels) {
  let image;
  try {
    image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("The image is damaged, or this browser can't show its kind: save it as PNG or JPEG.");
  }
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (image.width * image.height)));
  const [width, height] = [image.width, image.height].map((side) => Math.ceil(side * scale));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  image.close();
  const pixels = () => context.getImageData(0, 0, width, height).data;
  let rgba = pixels();
  let [isClear, seen, light] = [false, 0, 0];
  for (let at = 0; at < rgba.length; at += 4) {
    isClear ||= rgba[at + 3] < 255;
    seen += rgba[at + 3] / 255;
    if (grey(rgba, at) > LIGHT) light += rgba[at + 3] / 255;
  }
  if (isClear) {
    context.globalCompositeOperation = "destination-over"; // paper behind what is transparent
    const isInk = seen < MOST_INK * width * height;
    context.fillStyle = isInk && light > NEARLY_ALL * seen ? "black" : "white";
    context.fillRect(0, 0, width, height);
    rgba = pixels();
  }
  const data = new Uint8Array(width * height * channels);
  for (let pixel = 0; pixel < width * height; pixel++) {
    if (channels === 1) data[pixel] = grey(rgba, 4 * pixel);
    else data.set(rgba.subarray(4 * pixel, 4 * pixel + channels), channels * pixel);
  }
  context.canvas.width = context.canvas.height = 0; // phones limit the memory of all canvases together
  return { data, width, height };
}

/** Computes mean and standard deviation of numbers at every `step`-th place. */
function spread(values, step = 1) {
  let [sum, squares, count] = [0, 0, Math.ceil(values.length / step)];
  for (let at = 0; at < values.length; at += step) sum += values[at];
  for (let at = 0; at < values.length; at += step) squares += (values[at] - sum / count) ** 2;
  return { mean: sum / count, deviation: Math.sqrt(squares / count) };
}

/** Cuts an image of two lines where there is least ink near the middle, and lays the halves side by side. */
function laySideBySide({ data, width, height }, channels) {
  const first = Math.floor((height * 2) / 5);
  const rows = height - first; // of each half, which repeats its edge where it ends sooner
  const size = width * channels;
  const row = (at) => data.subarray(at * size, (at + 1) * size);
  const ink = (at) => {
    const each = [...Array(channels).keys()].map((one) => spread(row(at).subarray(one), channels).deviation);
    return spread(each).mean + 10 * Math.abs(at / height - 0.5);
  };
  let cut = first;
  for (let at = first + 1; at <= rows; at++) if (ink(at) < ink(cut)) cut = at;
  const laid = new Uint8Array(2 * rows * size);
  for (let at = -rows; at < rows; at++) {
    const target = at < 0 ? 2 * (at + rows) : 2 * at + 1;
    laid.set(row(Math.min(Math.max(cut + at, 0), height - 1)), target * size);
  }
  return { data: laid, width: 2 * width, height: rows };
}

/** Resizes the middle axis of (outer, length, inner) numbers as Pillow's BILINEAR does: a triangle filter. */
function resizeAxis(data, outer, length, inner, newLength) {
  const resized = new Float32Array(outer * newLength * inner);
  const scale = length / newLength;
  const support = Math.max(scale, 1);
  for (let to = 0; to < newLength; to++) {
    const center = (to + 0.5) * scale;
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), length);
    const weights = new Float64Array(end - start);
    for (let k = 0; k < weights.length; k++) {
      weights[k] = Math.max(1 - Math.abs(start + k + 0.5 - center) / support, 0);
    }
    const total = weights.reduce((sum, weight) => sum + weight);
    for (let out = 0; out < outer; out++) {
      for (let at = 0; at < inner; at++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) {
          sum += weights[k] * data[(out * length + start + k) * inner + at];
        }
        resized[(out * newLength + to) * inner + at] = sum / total;
      }
    }
  }
  return resized;
}

/** Rounds to a whole number, halves to the even one, as numpy does. */
function round(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

/** Makes an image the network's input (width, height, channels), as `prepare` in network.py does. */
export function prepare(image, shape) {
  const { channels, lines, stretch } = shape;
  const { data, width, height } = lines === 2 ? laySideBySide(image, channels) : image;
  const stretched = Math.fround(width * Math.fround(stretch));
  const scale = Math.min(Math.fround(shape.height / height), Math.fround(shape.width / stretched));
  const fit = (side) => Math.max(round(Math.fround(side * scale)), 1);
  const [newHeight, newWidth] = [fit(height), fit(stretched)];
  const narrow = resizeAxis(data, height, width, channels, newWidth);
  const fitted = resizeAxis(narrow, 1, height, newWidth * channels, newHeight);
  const { mean, deviation } = spread(fitted);
  const prepared = new Float32Array(shape.width * shape.height * channels);
  for (let at = 0; at < fitted.length; at++) {
    const column = Math.floor(at / channels) % newWidth;
    const row = Math.floor(at / channels / newWidth);
    const target = (column * shape.height + row) * channels + (at % channels);
    prepared[target] = (fitted[at] - mean) / Math.max(deviation, 1 / Math.sqrt(fitted.length));
  }
  return prepared;
}

/** Decodes softmax outputs: the labels on the most probable path, and the probability of all their paths. */
function decode(frames) {
  const labels = [];
  let before = BLANK;
  for (const frame of frames) {
    const best = frame.indexOf(Math.max(...frame));
    if (best !== BLANK && best !== before) labels.push(best);
    before = best;
  }
  const states = [BLANK, ...labels.flatMap((label) => [label, BLANK])];
  const forward = new Float64Array(states.length); // the forward variables of CTC (Graves et al., 2006)
  forward[0] = 1; // before the first frame
  frames.forEach((frame, number) => {
    for (let state = states.length - 1; state >= 0; state--) {
      const maySkip = state > 1 && states[state] !== BLANK && states[state] !== states[state - 2];
      if (state > 0) forward[state] += forward[state - 1];
      if (maySkip) forward[state] += forward[state - 2];
      forward[state] *= frame[states[state]];
    }
  });
  const [last, beforeLast = 0] = forward.reverse();
  return { labels, confidence: Math.min(last + beforeLast, 1) };
}

let loading = load();

/** Reads an image file: the text, its probability, and whether that is enough to rely on it. */
export async function read(blob) {
  const { alphabet, lengths, ort, session, shape, threshold } = await loading;
  const image = prepare(await openImage(blob, shape.channels), shape);
  const input = new ort.Tensor("float32", image, [1, shape.width, shape.height, shape.channels]);
  const output = Object.values(await session.run({ image: input }))[0];
  const [, count, classes] = output.dims;
  const frames = [...Array(count).keys()].map((at) => output.data.subarray(at * classes, (at + 1) * classes));
  const { labels, confidence } = decode(frames);
  const characters = [...alphabet];
  const isUsual = lengths[0] <= labels.length && labels.length <= lengths[1];
  return {
    text: labels.map((label) => characters[label - 1]).join(""),
    confidence,
    // At 0.5 or below, another text may be more probable: Recognizer searches for it, this page doesn't.
    sure: isUsual && threshold !== null && confidence >= threshold && confidence > 0.5,
  };
}

const parts = Object.fromEntries([...document.querySelectorAll("[id]")].map((part) => [part.id, part]));
let shown = 0; // how many images were given so far

/** Shows a file and what is read in it. */
async function show(files) {
  const number = ++shown;
  const file = [...files].find(({ type }) => type.startsWith("image/"));
  URL.revokeObjectURL(parts.image.src);
  parts.reading.hidden = true;
  try {
    if (!file) throw new Error("There is no image in this: give a PNG, JPEG, GIF, BMP or WebP file.");
    parts.image.src = URL.createObjectURL(file);
    parts.image.hidden = false;
    parts.message.textContent = "Reading …";
    const { text, confidence, sure } = await read(file);
    if (number !== shown) return; // another image was given in the meantime
    parts.text.textContent = text;
    parts.badge.className = sure ? "sure" : text ? "unsure" : "unread";
    const share = confidence < 0.9995 ? `${(100 * confidence).toFixed(1)}%` : ">99.9%";
    parts.badge.textContent = sure ? `✓ Sure ${share}` : text ? `? Not sure ${share}` : "– Not read";
    parts.message.textContent = sure ? "" : "Crop the image to one line of text, sharp and upright.";
    parts.reading.hidden = false;
  } catch (error) {
    if (number !== shown) return;
    parts.image.hidden = true;
    parts.message.textContent = error.message;
  }
}

/** Keeps all files of the page on the device, for the next visit without a network. */
async function keep() {
  await navigator.serviceWorker.register("sw.js");
  const cache = await caches.open("customocr-reader");
  await cache.addAll([location.pathname, "reader.js"]);
  for (const [url, response] of fetched) {
    if (url === MODEL || !(await cache.match(url))) await cache.put(url, response);
  }
  await navigator.serviceWorker.ready;
  parts.offline.hidden = false;
}

document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  show(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => show(event.clipboardData.files));
document.addEventListener("change", ({ target }) => {
  show(target.files);
  target.value = ""; // or the same file could not be chosen again
});
parts.message.textContent = "Loading …";
try {
  await loading;
  if (!shown) parts.message.textContent = "";
  await keep().catch(() => {}); // without https, or room for the files, the page just isn't kept
} catch (error) {
  parts.message.textContent = error.message;
}
