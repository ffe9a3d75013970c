// Small drawings in SVG, without a library: a chart of lines, bars of time, a network.

const SVG = "http://www.w3.org/2000/svg";

export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export function bytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 999.5 || unit === "GB") {
      return `${unit === "B" || count >= 99.95 ? count.toFixed(0) : count.toFixed(1)} ${unit}`;
    }
    count /= 1000;
  }
}

export function seconds(s) {
  if (s < 59.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

export function figure(value) {
  return value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e6)
    ? String(Number(value.toPrecision(4)))
    : value.toExponential(2);
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1) found.push(i * step);
  return found;
}

// Draws curves: [{name, colour, points: [[x, y], ...]}] with what to call x and y.
export function chart(container, curves, { x, y, title }) {
  // Others tell what they like: between figures beyond all scales there is no distance.
  const shown = curves.map((curve) => ({ ...curve, points: curve.points.filter(([, v]) => Math.abs(v) < 1e300) }))
    .filter((curve) => curve.points.length);
  if (!shown.length) {
    container.replaceChildren(make("p", { class: "empty" }, "Nothing yet."));
    return;
  }
  const width = Math.max(container.clientWidth, 240), height = Math.min(260, width * 0.6);
  const left = 52, right = 8, top = 8, bottom = 36;
  const all = shown.flatMap((curve) => curve.points);
  const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
  const [x0, x1] = span(Math.min(...xs), Math.max(...xs));
  const [y0, y1] = span(Math.min(...ys), Math.max(...ys));
  const toX = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const toY = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const value of ticks(y0, y1, 4)) {
    picture.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: toY(value), y2: toY(value) }));
    picture.append(draw("text", { class: "tick", x: left - 6, y: toY(value) + 4, "text-anchor": "end" }, y.format(value)));
  }
  for (const value of ticks(x0, x1, Math.max(2, Math.min(8, width / 90))).filter(x.keep ?? (() => true))) {
    picture.append(draw("text", { class: "tick", x: toX(value), y: height - bottom + 16, "text-anchor": "middle" }, x.format(value)));
  }
  picture.append(draw("text", { class: "tick", x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, x.label));
  for (const curve of shown) {
    const path = curve.points.map(([a, b], i) => `${i ? "L" : "M"}${toX(a).toFixed(1)} ${toY(b).toFixed(1)}`).join("");
    picture.append(draw("path", { class: `curve ${curve.colour}`, d: path }));
    const [a, b] = curve.points[curve.points.length - 1];
    picture.append(draw("circle", { class: `point ${curve.colour}`, cx: toX(a), cy: toY(b), r: 3 }));
  }
  const readout = make("p", { class: "readout" }, last(shown, x, y));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = x0 + (((event.clientX - box.left) / box.width) * width - left) / (width - left - right) * (x1 - x0);
    readout.textContent = near(shown, at, x, y);
  });
  picture.addEventListener("pointerleave", () => { readout.textContent = last(shown, x, y); });
  container.replaceChildren(picture, readout, legend(shown.map(({ name, colour }) => [name, colour])));
}

// Values that differ by no more than rounding are drawn as one: between them there are no ticks.
function span(low, high) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const room = high - low <= 1e-9 * size ? size * 0.05 || 0.5 : 0;
  return [low - room, high + room];
}

function near(curves, at, x, y) {
  return told(curves.map((curve) => [curve, curve.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a))]), x, y);
}

function last(curves, x, y) {
  return told(curves.map((curve) => [curve, curve.points[curve.points.length - 1]]), x, y);
}

function told(found, x, y) {
  const shown = found.slice(0, 4).map(([curve, p]) => `${curve.name} ${y.format(p[1])} (${x.name} ${x.format(p[0])})`);
  return shown.join(", ") + (found.length > 4 ? `, and ${found.length - 4} more` : "");
}

export function legend(entries) {
  return make("ul", { class: "legend" }, ...entries.map(([name, colour]) =>
    make("li", {}, make("span", { class: `dot ${colour}`, "aria-hidden": "true" }), name)));
}

// Draws what rounds took: [[round, train, encode, exchange, fold, rest], ...].
export function bars(container, spans) {
  const parts = ["train", "encode", "exchange", "fold", "rest"];
  if (!spans.length) {
    container.replaceChildren(make("p", { class: "empty" }, "Nothing yet."));
    return;
  }
  const width = Math.max(container.clientWidth, 240), row = 14, left = 40, right = 64, shown = spans.slice(-12);
  const longest = Math.max(...shown.map((s) => s.slice(1).reduce((a, b) => a + b, 0)), 1e-9);
  const newest = shown[shown.length - 1];
  const label = `Round ${newest[0]}: ` + parts.map((part, i) => `${part} ${seconds(newest[i + 1])}`).join(", ");
  const picture = draw("svg", { viewBox: `0 0 ${width} ${shown.length * (row + 4)}`, role: "img", "aria-label": label });
  shown.forEach((times, index) => {
    const y = index * (row + 4), total = times.slice(1).reduce((a, b) => a + b, 0);
    picture.append(draw("text", { class: "tick", x: left - 6, y: y + 11, "text-anchor": "end" }, String(times[0])));
    let at = left;
    parts.forEach((part, i) => {
      const length = (times[i + 1] / longest) * (width - left - right);
      const bar = draw("rect", { class: part, x: at, y, width: Math.max(length, 0), height: row },
        draw("title", {}, `${part} ${seconds(times[i + 1])}`));
      picture.append(bar);
      at += length;
    });
    picture.append(draw("text", { class: "tick", x: at + 4, y: y + 11 }, seconds(total)));
  });
  container.replaceChildren(picture, legend(parts.map((part) => [part === "rest" ? "evaluate and write" : part, part])));
}

// Draws peers around this one: [{name, kind, text, link, rate}], kind ok, warn or bad.
export function network(container, me, others) {
  const width = Math.max(container.clientWidth, 240), height = Math.min(320, Math.max(220, width * 0.7));
  const shown = others.slice(0, 24), cx = width / 2, cy = height / 2;
  const rx = width / 2 - 60, ry = height / 2 - 34;
  const words = others.map((o) => `${o.name}: ${o.text}`).join("; ") || "no other peer is known";
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `This peer and others. ${words}` });
  const places = shown.map((_, i) => {
    // Two others above left and right: opposite each other, all three would look like a line.
    const angle = shown.length === 2 ? (-5 + 4 * i) * Math.PI / 6 : (i / shown.length) * 2 * Math.PI - Math.PI / 2;
    return [cx + rx * Math.cos(angle), cy + ry * Math.sin(angle)];
  });
  const most = Math.max(...shown.map((o) => o.rate ?? 0), 1);
  shown.forEach((other, i) => {
    const [x, y] = places[i];
    picture.append(draw("line", {
      class: other.link, x1: cx, y1: cy, x2: x, y2: y,
      "stroke-width": other.link === "link" ? 1.5 + 4 * ((other.rate ?? 0) / most) : 1.5,
    }, draw("title", {}, `${other.name}: ${other.text}`)));
    if (other.rate) {
      picture.append(draw("text", { class: "tick", x: (cx + x) / 2 + 4, y: (cy + y) / 2 - 4 }, `${bytes(other.rate)}/s`));
    }
  });
  shown.forEach((other, i) => {
    const [x, y] = places[i];
    picture.append(draw("circle", { class: `node ${other.kind}`, cx: x, cy: y, r: 9 }));
    picture.append(draw("text", { x, y: y + (y >= cy ? 24 : -14), "text-anchor": "middle" }, other.label));
  });
  picture.append(draw("circle", { class: "node", cx, cy, r: 12 }));
  picture.append(draw("text", { x: cx, y: cy + 28, "text-anchor": "middle" }, me));
  const more = others.length > shown.length ? [make("p", { class: "readout" }, `and ${others.length - shown.length} more`)] : [];
  container.replaceChildren(picture, ...more);
}
