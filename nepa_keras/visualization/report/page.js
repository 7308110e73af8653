"use strict";
// The page's own script: the theme button, and the explorer of patches. It fetches nothing.

// ---- theme ----------------------------------------------------------------------------------------------
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();
  button.hidden = false;
}

// ---- explorer -------------------------------------------------------------------------------------------
// The theme's colours at even steps to that of a share in [0, 1].
function color(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, i) => Math.round(value + (place - low) * (stops[low + 1][i] - value)));
}

// Packed maps (see patch_maps.py) to the values of one row. Each is unpacked once, when first needed.
const unpacked = new Map();

function unpack(text, rows) {
  if (!unpacked.has(text)) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpacked.set(text, new Response(stream).arrayBuffer().then((buffer) => ({
      base: new Float32Array(buffer, 0, rows),
      step: new Float32Array(buffer, 4 * rows, rows),
      cls: new Float32Array(buffer, 8 * rows, rows),
      levels: new Uint8Array(buffer, 12 * rows),
    })));
  }
  return unpacked.get(text);
}

function rowOf(map, row, power) {
  const width = map.base.length;
  const levels = map.levels.subarray(row * width, (row + 1) * width);
  return Array.from(levels, (level) => map.base[row] + level ** power * map.step[row]);
}

// softmax(cosine / temperature), then the fewest largest that hold topP, scaled to sum to 1.
function predicted(cosines, temperature, topP) {
  const most = Math.max(...cosines);
  const raised = cosines.map((cosine) => Math.exp((cosine - most) / temperature));
  const sum = raised.reduce((a, b) => a + b);
  const order = raised.map((_, i) => i).sort((a, b) => raised[b] - raised[a] || a - b);
  const kept = new Array(cosines.length).fill(0);
  let held = 0;
  for (const i of order) {
    if (held >= topP) break;
    kept[i] = raised[i] / sum;
    held += kept[i];
  }
  return kept.map((weight) => weight / held);
}

function explore(maps) {
  const at = (id) => document.getElementById(id);
  const { rows, columns, layers, heads, causal, shift, ramp } = maps;
  const patches = rows * columns;
  const state = { image: 0, layer: layers - 1, head: 0, query: 0, pinned: false, temperature: 0.1, topP: 1 };
  const start = Math.floor(rows / 2) * columns + Math.floor((columns - 1) / 2);
  state.query = Math.min(start, Math.max(patches - 2, 0));

  const named = (patch) => `row ${Math.floor(patch / columns) + 1}, column ${patch % columns + 1}`;
  const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
  // Numbers of patches by falling value; hidden patches, and those that top-p leaves out, have no rank.
  const strongest = (values, ranked = () => true) =>
    values.map((_, i) => i).filter(ranked).sort((a, b) => values[b] - values[a] || a - b);
  const seen = (patch) => !causal || patch <= state.query;

  // -- what is built once
  at("about").textContent = maps.pretrained
    ? ""
    : "This model was trained for another task than the prediction of embeddings: its attention is what it does "
      + "now, and the prediction map shows how much there is of that all the same.";
  at("next-key").textContent = shift ? "next patch" : "patch to be found";
  for (let h = 0; h <= heads; h++) {
    at("head").add(new Option(h ? `Head ${h - 1}` : "Mean of all heads", h));
  }
  maps.images.forEach((image, i) => {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "image", value: i, checked: !i });
    const picture = Object.assign(document.createElement("img"), { src: image.picture, alt: "" });
    const text = document.createElement("span");
    text.textContent = image.caption;
    label.append(radio, picture, text);
    at("images").append(label);
    radio.addEventListener("change", () => { state.image = i; show(); });
  });
  for (const place of document.querySelectorAll(".map")) place.style.aspectRatio = `${columns} / ${rows}`;
  const stops = ramp.map((stop) => `rgb(${stop})`);
  for (const bar of document.querySelectorAll(".ramp")) bar.style.background = `linear-gradient(90deg, ${stops})`;

  const grid = at("grid");
  const cells = [];
  for (let r = 0; r < rows; r++) {
    const line = document.createElement("div");
    line.setAttribute("role", "row");
    for (let c = 0; c < columns; c++) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-label", `Patch at ${named(cells.length)}`);
      cell.tabIndex = -1;
      cells.push(cell);
      line.append(cell);
    }
    grid.append(line);
  }
  const marks = [];
  for (const place of document.querySelectorAll(".map")) {
    for (const kind of ["next", "query"]) {
      const mark = document.createElement("div");
      mark.className = `mark ${kind}`;
      place.append(mark);
      marks.push({ mark, kind });
    }
  }

  // -- what is looked at
  const patchAt = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const inside = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    const row = inside((event.clientY - box.top) / box.height, rows);
    return row * columns + inside((event.clientX - box.left) / box.width, columns);
  };
  const look = (patch) => {
    if (patch === state.query) return;
    state.query = patch;
    show();
  };
  const pin = (patch) => {
    state.pinned = !(state.pinned && patch === state.query);
    state.query = patch;
    show();
  };
  for (const place of document.querySelectorAll(".map")) {
    place.addEventListener("pointermove", (event) => { if (!state.pinned) look(patchAt(event)); });
    place.addEventListener("click", (event) => pin(patchAt(event)));
  }
  grid.addEventListener("keydown", (event) => {
    const row = Math.floor(state.query / columns);
    const column = state.query % columns;
    const far = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [far ? 0 : row, 0], End: [far ? rows - 1 : row, columns - 1],
    };
    if (event.key in moves) {
      const [r, c] = moves[event.key];
      if (r >= 0 && r < rows && c >= 0 && c < columns) look(r * columns + c);
      cells[state.query].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      pin(state.query);
    } else if (event.key === "Escape") {
      state.pinned = false;
      show();
    } else {
      return;
    }
    event.preventDefault();
  });
  const control = (id, take) => {
    for (const kind of ["input", "change"]) { // not every way to choose an option sends both in time
      at(id).addEventListener(kind, () => { take(Number(at(id).value)); show(); });
    }
  };
  control("layer", (value) => { state.layer = value; });
  control("head", (value) => { state.head = value; });
  control("temperature", (value) => { state.temperature = 10 ** value; });
  control("top-p", (value) => { state.topP = value; });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());

  // -- what is drawn
  // From 0 to the largest, or to 8 even shares at least: a model that treats all patches alike has a dark map.
  function paint(canvas, values, seen, even) {
    canvas.width = columns;
    canvas.height = rows;
    const most = Math.max(...values, Math.min(8 * even, 1));
    const pixels = new ImageData(columns, rows);
    values.forEach((value, i) => {
      if (seen(i)) pixels.data.set([...color(ramp, value / most), 255], 4 * i);
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return most;
  }

  function outline() {
    const next = state.query + shift;
    for (const { mark, kind } of marks) {
      const patch = kind === "query" ? state.query : next;
      mark.hidden = patch >= patches;
      Object.assign(mark.style, {
        left: `${100 * (patch % columns) / columns}%`, top: `${100 * Math.floor(patch / columns) / rows}%`,
        width: `${100 / columns}%`, height: `${100 / rows}%`,
      });
    }
    cells.forEach((cell, i) => {
      cell.tabIndex = i === state.query ? 0 : -1;
      cell.setAttribute("aria-selected", String(state.pinned && i === state.query));
    });
    document.querySelector(".maps").classList.toggle("pinned", state.pinned);
  }

  function tell(attention, shares, cosines, cls) {
    const looks = strongest(attention, seen);
    const expects = strongest(shares, (patch) => shares[patch] > 0);
    const next = state.query + shift;
    const where = state.query === looks[0] ? "itself" : named(looks[0]);
    const head = state.head ? `head ${state.head - 1}` : "mean of all heads";
    const said = [
      `${maps.images[state.image].caption}, ${named(state.query)}${state.pinned ? ", kept" : ""}; `
        + `block ${state.layer}, ${head}.`,
      `It looks most at ${where}: ${percent(attention[looks[0]])}; ${percent(cls)} go to CLS.`,
      `It expects what is most like ${named(expects[0])}: cosine ${cosines[expects[0]].toFixed(2)}.`,
    ];
    if (next >= patches) {
      said.push("This is the last patch, so there is no next one.");
    } else {
      const rank = strongest(cosines).indexOf(next) + 1;
      const what = shift ? "next patch" : "patch to be found";
      said.push(`The true ${what}, ${named(next)}, is number ${rank} of ${patches}, cosine ${cosines[next].toFixed(2)}.`);
    }
    const text = said.join(" ");
    if (at("said").textContent !== text) at("said").textContent = text;
    at("attention").setAttribute("aria-label", `Map of attention. ${said[1]}`);
    at("prediction").setAttribute("aria-label", `Map of the prediction. ${said.slice(2).join(" ")}`);
    const ranks = Array.from({ length: Math.min(5, Math.max(looks.length, expects.length)) }, (_, i) => i);
    at("strongest").replaceChildren(...ranks.map((i) => {
      const line = document.createElement("tr");
      const [looked, found] = [looks[i], expects[i]];
      const row = [i + 1, ...(looked === undefined ? ["", ""] : [named(looked), percent(attention[looked])]),
        ...(found === undefined ? ["", "", ""]
          : [named(found), percent(shares[found]), cosines[found].toFixed(3)])];
      line.append(...row.map((text, column) => {
        const cell = document.createElement(column ? "td" : "th");
        if (!column) cell.scope = "row";
        cell.textContent = text;
        return cell;
      }));
      return line;
    }));
  }

  let shown = 0; // maps that are unpacked late must not take the place of newer ones
  async function show() {
    const turn = ++shown;
    const image = maps.images[state.image];
    const { layer, head, query } = state;
    const [attended, compared] = await Promise.all([
      unpack(image.attention[layer][head], patches), unpack(image.cosines[layer], patches)]);
    if (turn !== shown) return;
    const attention = rowOf(attended, query, 1);
    const cosines = rowOf(compared, query, 2);
    const shares = predicted(cosines, state.temperature, state.topP);
    const picture = at("picture");
    if (picture.src !== image.picture) {
      picture.src = image.picture;
      picture.onload = () => picture.classList.toggle("smooth", picture.naturalWidth > 160);
    }
    grid.setAttribute("aria-label", `Patches of ${image.caption}, ${rows} rows and ${columns} columns`);
    at("layer-value").textContent = `${layer} of 0 to ${layers - 1}`;
    at("temperature-value").textContent = state.temperature.toPrecision(2);
    at("top-p-value").textContent = state.topP.toFixed(2);
    at("layer").setAttribute("aria-valuetext", `block ${layer} of 0 to ${layers - 1}`);
    at("temperature").setAttribute("aria-valuetext", state.temperature.toPrecision(2));
    const evenly = 1 / (1 + (causal ? query + 1 : patches)); // CLS is seen, too
    at("attention-most").textContent = percent(paint(at("attention"), attention, seen, evenly));
    at("prediction-most").textContent = percent(paint(at("prediction"), shares, () => true, 1 / patches));
    outline();
    tell(attention, shares, cosines, attended.cls[query]);
  }

  at("explorer").hidden = false;
  show();
}

const held = document.getElementById("maps");
if (held && "DecompressionStream" in window) explore(JSON.parse(held.textContent));
else if (held) document.getElementById("too-old").hidden = false;
