"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const numFrames = data.frames.length;
  const [gridHeight, gridWidth] = data.grid;
  const objects = data.objects.map((item) => ({
    ...item,
    rgb: [1, 3, 5].map((at) => parseInt(item.colour.slice(at, at + 2), 16)),
    frames: Object.keys(item.masks).map(Number).sort((a, b) => a - b),
    row: document.querySelector(`tbody.object[data-id="${item.object_id}"]`),
  }));
  const hasScores = objects.some((item) => item.score !== null);
  const highestScore = Math.max(0, ...objects.map((item) => item.score ?? 0));

  // --- what is masked ---------------------------------------------------------------------------

  const passes = (item, threshold) => item.score === null || item.score > threshold;
  const byHand = new Map(); // object id -> kept, where that does not follow from the threshold
  const givenByHand = new Map(
    objects.filter((item) => item.kept !== passes(item, data.threshold))
      .map((item) => [item.object_id, item.kept]),
  );
  let threshold = data.threshold;

  const cleanup = { ...data.cleanup };
  const CLEANUP_FLAGS = { fill_holes: "--fill-holes", min_area: "--min-area", dilate: "--dilate" };

  const isKept = (item) => byHand.get(item.object_id) ?? passes(item, threshold);

  function undoAll() {
    threshold = data.threshold;
    Object.assign(cleanup, data.cleanup);
    byHand.clear();
    givenByHand.forEach((kept, id) => byHand.set(id, kept));
  }

  function switchByHand(item, kept) {
    if (kept === passes(item, threshold)) byHand.delete(item.object_id);
    else byHand.set(item.object_id, kept);
  }

  function commandWords() {
    const idsOf = (kept) => objects.filter((item) => byHand.get(item.object_id) === kept)
      .map((item) => item.object_id).sort((a, b) => a - b).join(",");
    const words = ["t3dgs-masks refilter", data.command_folder];
    if (idsOf(true)) words.push(`--keep ${idsOf(true)}`);
    if (idsOf(false)) words.push(`--drop ${idsOf(false)}`);
    if (hasScores) words.push(`--filter-threshold ${threshold}`);
    for (const [name, flag] of Object.entries(CLEANUP_FLAGS)) {
      if (cleanup[name]) words.push(`${flag} ${cleanup[name]}`);
    }
    return words;
  }

  const commandText = () => commandWords().join(" ");

  // --- masks ------------------------------------------------------------------------------------

  // COCO's compressed run lengths: 5 bits a character, from the fourth run on differences.
  function runLengths(text) {
    const runs = [];
    for (let at = 0; at < text.length;) {
      let value = 0, shift = 0, code;
      do {
        code = text.charCodeAt(at++) - 48;
        value |= (code & 31) << shift;
        shift += 5;
      } while (code & 32);
      if (code & 16) value |= -1 << shift;
      if (runs.length > 2) value += runs[runs.length - 2];
      runs.push(value);
    }
    return runs;
  }

  function areaOf(text) {
    return runLengths(text).reduce((sum, length, index) => sum + (index % 2 ? length : 0), 0);
  }

  // Row by row, 1 = inside; the runs go column by column.
  function raster(text, height, width) {
    const mask = new Uint8Array(height * width);
    let position = 0;
    runLengths(text).forEach((length, index) => {
      if (index % 2) {
        for (let p = position; p < position + length; p++) {
          mask[(p % height) * width + Math.floor(p / height)] = 1;
        }
      }
      position += length;
    });
    return mask;
  }

  function isEdge(mask, x, y, height, width) {
    const at = y * width + x;
    return (x > 0 && !mask[at - 1]) || (x < width - 1 && !mask[at + 1]) ||
      (y > 0 && !mask[at - width]) || (y < height - 1 && !mask[at + width]);
  }

  // Middle of the longest stretch in the row through the centre of mass: a place for a label.
  function innerPoint(mask, height, width) {
    let count = 0, sum = 0;
    mask.forEach((inside, at) => { if (inside) { count++; sum += Math.floor(at / width); } });
    if (!count) return null;
    const middle = Math.round(sum / count);
    for (let away = 0; away < height; away++) {
      for (const y of [middle - away, middle + away]) {
        if (y < 0 || y >= height) continue;
        let best = 0, end = 0, length = 0;
        for (let x = 0; x < width; x++) {
          length = mask[y * width + x] ? length + 1 : 0;
          if (length > best) { best = length; end = x; }
        }
        if (best) return [end - (best - 1) / 2, y];
      }
    }
    return null;
  }

  // Pixels of one value that hang together, one group at a time.
  function eachComponent(mask, value, diagonal, height, width, visit) {
    const seen = new Uint8Array(mask.length);
    for (let start = 0; start < mask.length; start++) {
      if (seen[start] || mask[start] !== value) continue;
      const group = [start];
      let touchesBorder = false;
      seen[start] = 1;
      for (let next = 0; next < group.length; next++) {
        const x = group[next] % width, y = Math.floor(group[next] / width);
        touchesBorder ||= x === 0 || y === 0 || x === width - 1 || y === height - 1;
        for (let dy = -1; dy <= 1; dy++) {
          for (let dx = -1; dx <= 1; dx++) {
            const nx = x + dx, ny = y + dy;
            if ((dx && dy && !diagonal) || nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
            const at = ny * width + nx;
            if (seen[at] || mask[at] !== value) continue;
            seen[at] = 1;
            group.push(at);
          }
        }
      }
      visit(group, touchesBorder);
    }
  }

  // Everything at most `radius` steps of the 4-connected cross away from the mask.
  function dilated(mask, radius, height, width) {
    const steps = new Float32Array(mask.length).fill(Infinity);
    mask.forEach((inside, at) => { if (inside) steps[at] = 0; });
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const at = y * width + x;
        if (x > 0) steps[at] = Math.min(steps[at], steps[at - 1] + 1);
        if (y > 0) steps[at] = Math.min(steps[at], steps[at - width] + 1);
      }
    }
    for (let y = height - 1; y >= 0; y--) {
      for (let x = width - 1; x >= 0; x--) {
        const at = y * width + x;
        if (x < width - 1) steps[at] = Math.min(steps[at], steps[at + 1] + 1);
        if (y < height - 1) steps[at] = Math.min(steps[at], steps[at + width] + 1);
      }
    }
    return Uint8Array.from(steps, (distance) => Number(distance <= radius));
  }

  // As `refilter` does it, at the scale of the page: exact where frames are as small as the grid.
  function cleaned(mask) {
    const scale = gridWidth / data.source_size[1];
    const largestHole = cleanup.fill_holes * scale * scale;
    if (cleanup.fill_holes) {
      const holes = [];
      eachComponent(mask, 0, false, gridHeight, gridWidth, (group, touchesBorder) => {
        if (!touchesBorder && group.length <= largestHole) holes.push(group);
      });
      for (const group of holes) for (const at of group) mask[at] = 1;
    }
    if (cleanup.min_area > 1) {
      const spots = [];
      eachComponent(mask, 1, true, gridHeight, gridWidth, (group) => {
        if (group.length < cleanup.min_area * scale * scale) spots.push(group);
      });
      for (const group of spots) for (const at of group) mask[at] = 0;
    }
    return cleanup.dilate ? dilated(mask, cleanup.dilate * scale, gridHeight, gridWidth) : mask;
  }

  // --- pictures ---------------------------------------------------------------------------------

  const CACHED = 48;
  const cache = new Map();

  // All that begin with JPEG's marker are JPEG, and none of the others.
  const url = (content) =>
    `data:image/${content.startsWith("/9j/") ? "jpeg" : "webp"};base64,${content}`;

  function picture(kind, frame) {
    const content = data.frames[frame]?.[kind];
    if (!content) return Promise.resolve(null);
    const key = `${kind} ${frame}`;
    let loading = cache.get(key);
    if (!loading) {
      const image = new Image();
      image.src = url(content);
      loading = image.decode().then(() => image, () => null);
      if (cache.size >= CACHED) cache.delete(cache.keys().next().value);
    } else {
      cache.delete(key); // and in again, as the latest
    }
    cache.set(key, loading);
    return loading;
  }

  const RAMP = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
  const rampOf = (share) => {
    const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
    const low = Math.min(RAMP.length - 2, Math.floor(at));
    return RAMP[low].map((value, i) => value + (RAMP[low + 1][i] - value) * (at - low));
  };
  const residualColours = Array.from({ length: 256 }, (_, grey) =>
    rampOf((grey / 255) ** 2 / (data.residual_top ?? 1)));

  function sheet(width, height, paint) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    paint(context);
    return canvas;
  }

  function pixelSheet(width, height, paint) {
    return sheet(width, height, (context) => {
      const pixels = context.createImageData(width, height);
      paint(pixels.data);
      context.putImageData(pixels, 0, 0);
    });
  }

  function heatmap(image) {
    const { naturalWidth: width, naturalHeight: height } = image;
    return sheet(width, height, (context) => {
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, width, height);
      for (let at = 0; at < pixels.data.length; at += 4) {
        const [red, green, blue] = residualColours[pixels.data[at]];
        pixels.data[at] = red;
        pixels.data[at + 1] = green;
        pixels.data[at + 2] = blue;
      }
      context.putImageData(pixels, 0, 0);
    });
  }

  const put = (pixels, at, red, green, blue, alpha) => {
    pixels[4 * at] = red;
    pixels[4 * at + 1] = green;
    pixels[4 * at + 2] = blue;
    pixels[4 * at + 3] = alpha;
  };

  const hatchPeriod = Math.max(4, Math.round(Math.max(gridHeight, gridWidth) / 80));

  function paintObject(pixels, item, mask) {
    const kept = isKept(item);
    const selected = item.object_id === selectedId;
    for (let y = 0; y < gridHeight; y++) {
      for (let x = 0; x < gridWidth; x++) {
        const at = y * gridWidth + x;
        if (!mask[at]) continue;
        const edge = isEdge(mask, x, y, gridHeight, gridWidth);
        if (edge && selected) put(pixels, at, 255, 255, 255, 255);
        else if (kept) put(pixels, at, ...item.rgb, edge ? 255 : 115);
        else if (edge || (x + y) % hatchPeriod < hatchPeriod / 4) put(pixels, at, 190, 190, 190, 235);
        else put(pixels, at, 64, 64, 64, 140);
      }
    }
  }

  function paintCoarse(pixels, mask, height, width) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const at = y * width + x;
        if (!mask[at]) continue;
        const shade = Math.floor((x + y) / 4) % 2 ? 255 : 0;
        if (isEdge(mask, x, y, height, width)) put(pixels, at, shade, shade, shade, 255);
        else put(pixels, at, 255, 255, 255, 70);
      }
    }
  }

  // --- the frame --------------------------------------------------------------------------------

  const canvas = byId("picture");
  const context = canvas.getContext("2d");
  const enlarged = Math.max(1, Math.round(1280 / Math.max(gridHeight, gridWidth)));
  canvas.width = gridWidth * enlarged;
  canvas.height = gridHeight * enlarged;

  const layers = {};
  for (const name of ["photo", "coarse", "residual", "refined", "overlay"]) {
    layers[name] = byId(`layer-${name}`);
    layers[name].addEventListener("change", () => show());
  }
  for (const name of ["photo", "coarse", "residual"]) {
    if (!data.frames.some((frame) => frame[name])) {
      layers[name].checked = false;
      layers[name].disabled = true;
      layers[name].parentElement.title = "Not in this report";
    }
  }

  let current = 0;
  let selectedId = null;
  let shown = [];  // objects on the frame that is shown, with their masks
  let request = 0;

  async function show(frame = current) {
    current = Math.min(numFrames - 1, Math.max(0, frame));
    updatePosition();
    const mine = ++request;
    const [photo, residual] = await Promise.all([
      layers.photo.checked ? picture("photo", current) : null,
      layers.residual.checked ? picture("residual", current) : null,
    ]);
    if (mine !== request) return; // something newer is on its way
    paint(photo, residual);
    for (const ahead of [1, 2, -1]) picture("photo", current + ahead);
  }

  function paint(photo, residual) {
    const { width, height } = canvas;
    shown = objects.filter((item) => item.masks[current] !== undefined)
      .map((item) => ({ item, mask: raster(item.masks[current], gridHeight, gridWidth) }));
    let masked = new Uint8Array(gridHeight * gridWidth);
    for (const { item, mask } of shown) {
      if (isKept(item)) mask.forEach((inside, at) => { if (inside) masked[at] = 1; });
    }
    masked = cleaned(masked);
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.fillStyle = layers.photo.checked ? "#3a4048" : "#ffffff";
    context.fillRect(0, 0, width, height);
    if (photo) context.drawImage(photo, 0, 0, width, height);
    if (residual) {
      context.globalAlpha = photo ? 0.85 : 1;
      context.drawImage(heatmap(residual), 0, 0, width, height);
      context.globalAlpha = 1;
    }
    context.imageSmoothingEnabled = false; // masks are shown pixel by pixel
    if (layers.refined.checked) {
      context.drawImage(pixelSheet(gridWidth, gridHeight, (pixels) => {
        masked.forEach((inside, at) => { if (inside) put(pixels, at, 0, 0, 0, 255); });
      }), 0, 0, width, height);
    }
    if (layers.overlay.checked) paintOverlay(width, height);
    const coarse = data.frames[current].coarse;
    if (layers.coarse.checked && coarse) {
      const [coarseHeight, coarseWidth] = data.coarse_grid;
      const mask = raster(coarse, coarseHeight, coarseWidth);
      context.drawImage(pixelSheet(coarseWidth, coarseHeight, (pixels) => {
        paintCoarse(pixels, mask, coarseHeight, coarseWidth);
      }), 0, 0, width, height);
    }
    const share = masked.reduce((sum, inside) => sum + inside, 0) / masked.length;
    byId("frame-masked").textContent = `${(100 * share).toFixed(1)} % masked`;
    describe(share);
    canvas.dataset.frame = current;
    canvas.dataset.revision = Number(canvas.dataset.revision ?? 0) + 1;
  }

  function paintOverlay(width, height) {
    // Rejected ones first: nothing may hide an object that counts.
    const inOrder = [...shown].sort((a, b) => isKept(a.item) - isKept(b.item));
    for (const { item, mask } of inOrder) {
      context.drawImage(pixelSheet(gridWidth, gridHeight, (pixels) => {
        paintObject(pixels, item, mask);
      }), 0, 0, width, height);
    }
    const size = 13 * width / (canvas.clientWidth || width);
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const { item, mask } of inOrder) {
      const point = innerPoint(mask, gridHeight, gridWidth);
      if (!point) continue;
      const text = String(item.object_id);
      const half = context.measureText(text).width / 2;
      const x = Math.min(width - half, Math.max(half, (point[0] + 0.5) * enlarged));
      const y = Math.min(height - size / 2, Math.max(size / 2, (point[1] + 0.5) * enlarged));
      context.lineWidth = size / 3.5;
      context.strokeStyle = "#000";
      context.strokeText(text, x, y);
      context.fillStyle = "#fff";
      context.fillText(text, x, y);
    }
  }

  function describe(share) {
    const ids = (kept) => shown.filter(({ item }) => isKept(item) === kept)
      .map(({ item }) => item.object_id).join(", ") || "none";
    canvas.setAttribute("aria-label", `Frame ${current + 1} of ${numFrames}, ` +
      `${data.shown_names[current]}: masked objects ${ids(true)}; not masked ${ids(false)}; ` +
      `${(100 * share).toFixed(1)} percent masked`);
  }

  const slider = byId("frame");

  function updatePosition() {
    slider.value = current;
    slider.setAttribute("aria-valuetext", `frame ${current + 1}, ${data.shown_names[current]}`);
    byId("frame-number").textContent = current + 1;
    byId("frame-name").textContent = data.shown_names[current];
    byId("objects")?.style.setProperty("--at", String((current + 0.5) / numFrames));
    byId("legend").hidden = !layers.residual.checked;
  }

  byId("legend-high").textContent = (data.residual_top ?? 1).toFixed(2);

  // How much of every frame is masked; where objects overlap it is counted twice.
  function plotShares() {
    const areas = new Array(numFrames).fill(0);
    for (const item of objects) {
      if (!isKept(item)) continue;
      item.areas ??= item.frames.map((frame) => areaOf(item.masks[frame]));
      item.frames.forEach((frame, index) => { areas[frame] += item.areas[index]; });
    }
    const most = Math.max(1, ...areas);
    const step = 100 / numFrames;
    const steps = areas.map((area, frame) =>
      `V${(20 - 20 * area / most).toFixed(2)}H${((frame + 1) * step).toFixed(3)}`);
    byId("share-path").setAttribute("d", `M0 20${steps.join("")}V20Z`);
  }

  // --- moving through the frames ----------------------------------------------------------------

  slider.addEventListener("input", () => show(Number(slider.value)));
  byId("previous").addEventListener("click", () => show(current - 1));
  byId("next").addEventListener("click", () => show(current + 1));

  const playButton = byId("play");
  let playing = null;

  // Frame after frame: on a slow machine it gets slower, and drops nothing.
  async function run(mine) {
    while (playing === mine) {
      const begin = performance.now();
      await show((current + 1) % numFrames);
      const rest = 1000 / data.fps - (performance.now() - begin);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, rest)));
    }
  }

  function play(on) {
    playing = on ? {} : null;
    if (on) run(playing);
    playButton.setAttribute("aria-pressed", String(on));
    playButton.setAttribute("aria-label", on ? "Pause" : "Play");
  }
  playButton.addEventListener("click", () => play(playing === null));

  const layerKeys = ["photo", "coarse", "residual", "refined", "overlay"];

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const target = event.target;
    const types = target instanceof HTMLInputElement && target.type !== "checkbox";
    if (types && target !== slider) return;
    const presses = target instanceof HTMLInputElement || target instanceof HTMLButtonElement;
    const step = event.shiftKey ? 10 : 1;
    const layer = layers[layerKeys[Number(event.key) - 1]];
    if (event.key === "ArrowLeft") show(current - step);
    else if (event.key === "ArrowRight") show(current + step);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(numFrames - 1);
    else if (event.key === " " && (!presses || target === slider)) play(playing === null);
    else if (layer && !layer.disabled) layer.click();
    else return;
    event.preventDefault();
  });

  // --- objects ----------------------------------------------------------------------------------

  function select(id, { scroll = false } = {}) {
    selectedId = id;
    for (const item of objects) item.row.classList.toggle("selected", item.object_id === id);
    if (scroll) {
      objects.find((item) => item.object_id === id)?.row.scrollIntoView({ block: "nearest" });
    }
  }

  for (const item of objects) {
    const { row } = item;
    row.querySelector(".toggle").addEventListener("change", (event) => {
      switchByHand(item, event.target.checked);
      update();
    });
    const portrait = row.querySelector(".portrait");
    if (item.portrait) {
      const image = portrait.querySelector("img");
      image.src = url(item.portrait);
      image.hidden = false;
    }
    portrait.addEventListener("click", () => {
      select(item.object_id);
      show(item.best_frame);
    });
    const timeline = row.querySelector(".timeline");
    timeline.addEventListener("click", (event) => {
      const box = timeline.getBoundingClientRect();
      select(item.object_id);
      show(Math.floor(numFrames * (event.clientX - box.left) / box.width));
    });
  }

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(gridWidth * (event.clientX - box.left) / box.width);
    const y = Math.floor(gridHeight * (event.clientY - box.top) / box.height);
    const hit = [...shown].sort((a, b) => isKept(b.item) - isKept(a.item))
      .find(({ mask }) => mask[y * gridWidth + x]);
    select(hit ? hit.item.object_id : null, { scroll: true });
    show();
  });

  function reasonOf(item) {
    const id = item.object_id;
    const hand = byHand.get(id);
    if (hand !== givenByHand.get(id)) {
      if (hand !== undefined) return hand ? "switched on here" : "switched off here";
    } else if (hand !== undefined || item.score === null || threshold === data.threshold) {
      return item.reason;
    }
    if (item.score === null) return "not judged: kept unless switched off";
    const comparison = item.score > threshold ? "above" : "not above";
    return `transience score ${item.score.toFixed(4)} is ${comparison} ${threshold}`;
  }

  function updateObjects() {
    let kept = 0;
    for (const item of objects) {
      const on = isKept(item);
      kept += on;
      const { row } = item;
      row.querySelector(".toggle").checked = on;
      row.classList.toggle("off", !on);
      row.classList.toggle("edited", on !== item.kept);
      const verdict = row.querySelector(".verdict");
      verdict.textContent = on ? "kept" : "rejected";
      verdict.className = `verdict ${on ? "kept" : "rejected"}`;
      row.querySelector(".reason bdi").textContent = reasonOf(item);
    }
    byId("objects-count").textContent =
      `${kept} kept (masked), ${objects.length - kept} rejected`;
  }

  function updateCommand() {
    const on = objects.filter((item) => isKept(item) && !item.kept).length;
    const off = objects.filter((item) => !isKept(item) && item.kept).length;
    const recleaned = Object.keys(cleanup).some((name) => cleanup[name] !== data.cleanup[name]);
    const changes = [
      on ? `${on} switched on` : "", off ? `${off} switched off` : "", recleaned ? "cleaned up" : "",
    ];
    const changed = changes.some(Boolean);
    // A flag and its value stay on one line.
    byId("command").replaceChildren(...commandWords().flatMap((word, index) => {
      const span = document.createElement("span");
      span.textContent = word;
      return index ? [" ", span] : [span];
    }));
    byId("command-state").textContent = changed
      ? `${changes.filter(Boolean).join(", ")}: run this to write these masks`
      : "as they are on disk; switch objects to change them";
    document.querySelector(".command").classList.toggle("changed", changed);
    const untouched = !recleaned && threshold === data.threshold && byHand.size === givenByHand.size &&
      [...byHand].every(([id, kept]) => givenByHand.get(id) === kept);
    byId("reset").hidden = untouched;
    byId("copied").textContent = "";
    byId("copy").textContent = "Copy";
  }

  for (const name of Object.keys(CLEANUP_FLAGS)) {
    byId(`clean-${name}`).addEventListener("input", (event) => {
      const value = Number(event.target.value);
      if (!Number.isInteger(value) || value < 0) return;
      cleanup[name] = value;
      update();
    });
  }

  function updateCleanup() {
    for (const name of Object.keys(CLEANUP_FLAGS)) {
      const field = byId(`clean-${name}`);
      if (document.activeElement !== field) field.value = cleanup[name];
    }
  }

  function update() {
    updateCleanup();
    updateThreshold();
    updateObjects();
    updateCommand();
    plotShares();
    show();
  }

  byId("reset").addEventListener("click", () => {
    undoAll();
    update();
    byId("command").focus();
  });

  // --- the threshold ----------------------------------------------------------------------------

  const range = byId("threshold");
  const number = byId("threshold-value");
  const top = Math.min(1, Math.max(1.15 * Math.max(highestScore, data.threshold), 0.01));

  function updateThreshold() {
    if (!hasScores) return;
    range.value = threshold;
    if (document.activeElement !== number) number.value = threshold;
    byId("objects").style.setProperty("--limit", String(Math.min(1, threshold / top)));
    byId("score-line").setAttribute("x1", `${100 * Math.min(1, threshold / top)}%`);
    byId("score-line").setAttribute("x2", `${100 * Math.min(1, threshold / top)}%`);
    for (const item of objects) item.dot?.setAttribute("fill-opacity", isKept(item) ? 1 : 0.15);
  }

  function setThreshold(value) {
    if (!(value >= 0 && value <= 1)) return;
    threshold = Number(value.toFixed(6));
    update();
  }

  function svg(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  if (hasScores) {
    range.max = top;
    range.step = number.step = 10 ** Math.floor(Math.log10(top / 150));
    const plot = byId("score-plot");
    plot.append(svg("line", { x1: 0, x2: "100%", y1: 11, y2: 11, class: "axis" }));
    plot.append(svg("line", { id: "score-line", y1: 0, y2: 22, class: "limit" }));
    for (const item of objects) {
      if (item.score === null) continue;
      const share = `${100 * Math.min(1, item.score / top)}%`;
      item.dot = svg("circle", { cx: share, cy: 11, r: 5, fill: item.colour, stroke: item.colour });
      item.dot.append(svg("title", {}));
      item.dot.firstChild.textContent = `object ${item.object_id}: ${item.score.toFixed(4)}`;
      plot.append(item.dot);
      item.row.querySelector(".score-bar").setAttribute("width", String(100 * item.score / top));
    }
    range.addEventListener("input", () => setThreshold(Number(range.value)));
    number.addEventListener("input", () => {
      if (number.value !== "") setThreshold(Number(number.value));
    });
    number.addEventListener("change", updateThreshold);
  }

  // --- order of the table, copying --------------------------------------------------------------

  const sortKeys = {
    id: (item) => item.object_id,
    frames: (item) => item.frames.length,
    score: (item) => item.score ?? 0,
  };
  for (const button of document.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const descending = header.ariaSort ? header.ariaSort === "ascending" : button.dataset.sort !== "id";
      document.querySelectorAll("#objects th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = sortKeys[button.dataset.sort];
      const sign = descending ? -1 : 1;
      const inOrder = [...objects].sort((a, b) => sign * (key(a) - key(b)) || a.object_id - b.object_id);
      byId("objects").append(...inOrder.map((item) => item.row));
    });
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard for pages from disk in this browser: select, and copy as by hand.
      const selection = getSelection();
      selection.selectAllChildren(byId("command"));
      if (!document.execCommand("copy")) return "press Ctrl+C to copy";
    }
    return "copied";
  }

  byId("copy").addEventListener("click", async () => {
    const outcome = await copy(commandText());
    byId("copied").textContent = `Command ${outcome}`;
    byId("copy").textContent = outcome === "copied" ? "Copied" : "Press Ctrl+C";
  });

  new ResizeObserver(() => show()).observe(canvas);
  undoAll();
  update();
})();
