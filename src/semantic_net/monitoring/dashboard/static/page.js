// The live page: takes what the peer tells over one stream, and draws it. Texts of others are only
// ever set as text.

import { bars, bytes, chart, figure, make, network, seconds } from "./draw.js";

const MAX_POINTS = 4000, MIN_POINTS = 40, MAX_LOG = 200, COLOURS = 8, RETRY_MS = 3000, REDRAW_MS = 250;

const $ = (id) => document.getElementById(id);
const state = { facts: null, status: null, curves: {}, timeline: [], last: null, heardAt: 0, isDrawn: true };
const colours = new Map();

function colourOf(peer) {
  if (!colours.has(peer)) colours.set(peer, `c${colours.size % COLOURS}`);
  return colours.get(peer);
}

const short = (peer) => peer.replace(/(.{4})(.{4}).*/, "$1-$2");
function nameOf(peer) {
  if (peer === state.facts.peer) return `${state.facts.name} (this peer)`;
  return state.status?.peers.find((other) => other.peer === peer)?.name || short(peer);
}
const metric = (value) => (value === null || value === undefined ? "" : state.facts.percent ? (100 * value).toFixed(1) : figure(value));
// A task of a user's may not name its main metric: then it is the first one.
const label = () => (state.facts.metric ? state.facts.label : Object.keys(state.last?.metrics ?? {})[0] ?? "metric");
const task = () => state.facts.task.replace(/^.*\//, "").replace(/\.py$/, "");
const orNothing = (value, format) => (value === null || value === undefined ? "" : format(value));

// What each peer is, in a word that does not need its colour.
function kindOf(peer) {
  if (peer.has_left) return ["warn", "has left"];
  if (!peer.is_alive) return ["bad", orNothing(peer.heard_s, (s) => `silent for ${seconds(s)}`) || "not heard"];
  if (peer.agrees === false) return ["bad", "another model"];
  if (!peer.is_connected) return ["warn", `not connected, heard ${seconds(peer.heard_s ?? 0)} ago`];
  if (peer.waited_for) return ["warn", "waited for"];
  return ["ok", "connected"];
}

function digest(agrees) {
  if (agrees === true) return ["ok", "equal"];
  return agrees === false ? ["bad", "DIFFERS"] : ["dim", "-"];
}

function device(d) {
  if (!d) return "";
  const told = [orNothing(d.power_w, (w) => `${w.toFixed(1)} W`), orNothing(d.battery_percent, (p) => `${p.toFixed(0)} %`),
    orNothing(d.temperature_c, (t) => `${t.toFixed(0)} °C`)];
  return told.filter(Boolean).join(", ");
}

const HEAD = ["peer", "state", "round", "loss", "metric", "sent", "received", "missing", "digest", "link", "device", "why"];
// Metrics that people read in per cent, as everywhere else.
const SHARES = /(^|_)(miou|iou|accuracy|dice|f1|precision|recall)(_|$)/i;
const TEXTS = ["state", "why"];

function row(peer, name, kind, word, cells, why) {
  const first = make("th", { scope: "row" }, make("span", { class: `dot ${colourOf(peer)}`, "aria-hidden": "true" }), name);
  return make("tr", { "data-peer": peer, "data-kind": kind, class: kind === "bad" ? "gone" : "" }, first,
    make("td", { class: `text ${kind}` }, word), ...cells, make("td", { class: "why" }, why));
}

function drawPeers({ facts, status, curves, last }) {
  $("peers-head").replaceChildren(...HEAD.map((name) => make("th", { scope: "col", class: TEXTS.includes(name) ? "text" : "" }, name === "metric" ? label() : name)));
  const mine = curves[facts.peer]?.at(-1);
  const cell = (text, kind = "") => make("td", { class: kind }, text);
  const rows = [row(facts.peer, nameOf(facts.peer), "ok", status.phase, [
    cell(`${status.round}/${status.rounds}`), cell(orNothing(mine?.[1], figure)), cell(metric(mine?.[2])),
    cell(bytes(status.bytes_sent)), cell(bytes(status.bytes_received)), cell(last ? String(last.missing.length) : ""),
    cell(last ? last.state_digest.slice(0, 6) : ""), cell(""), cell(device(status.device)),
  ], "")];
  for (const peer of status.peers) {
    const [kind, word] = kindOf(peer), [agreement, text] = digest(peer.agrees);
    rows.push(row(peer.peer, peer.name, kind, word, [
      cell(String(peer.round || "")), cell(orNothing(peer.last?.loss, figure)), cell(metric(peer.last?.value)),
      cell(orNothing(peer.last?.bytes_sent, bytes)), cell(orNothing(peer.last?.bytes_received, bytes)),
      cell(orNothing(peer.last?.num_missing, String)), cell(text, agreement),
      cell(orNothing(peer.bytes_per_s, (rate) => `${bytes(rate)}/s`)), cell(device(peer.device)),
    ], peer.waited_for || (peer.has_left ? "" : peer.problem)));
  }
  $("peers").replaceChildren(...rows);
  $("unmet").replaceChildren(...Object.entries(status.unmet).map(([address, why]) =>
    make("li", {}, `${address}: nobody has said hello there${why ? ` (${why})` : ""}`)));
}

function drawNetwork({ facts, status }) {
  network($("network"), facts.name, status.peers.map((peer) => {
    const [kind, text] = kindOf(peer);
    const link = peer.is_connected ? "link" : peer.is_alive ? "relay" : "lost";
    return { name: peer.name, label: `${peer.name.slice(0, 16)} · ${peer.round || "-"}`, kind, text, link, rate: peer.bytes_per_s };
  }));
}

function drawCurves({ facts, curves, timeline }) {
  const each = (pick) => Object.entries(curves).map(([peer, points]) => ({
    name: nameOf(peer), colour: colourOf(peer),
    points: points.map(pick).filter(([, y]) => y !== null && y !== undefined),
  }));
  const rounds = { label: "round", name: "round", format: (v) => String(v), keep: Number.isInteger };
  const value = { format: metric }, unit = facts.percent ? ", %" : "";
  chart($("metric"), each(([round, , v]) => [round, v]), { x: rounds, y: value, title: `${label()}${unit} over rounds` });
  chart($("bytes"), each(([, , v, sum]) => [sum, v]), {
    x: { label: "sent and received", name: "at", format: bytes }, y: value, title: `${label()}${unit} over bytes`,
  });
  chart($("loss"), each(([round, loss]) => [round, loss]), { x: rounds, y: { format: figure }, title: "Training loss over rounds" });
  $("h-metric").textContent = `${label()}${unit} over rounds`;
  $("h-bytes").textContent = `${label()}${unit} over bytes`;
  bars($("time"), timeline);
}

function drawLast({ last }) {
  if (!last) return;
  const told = [["round", `${last.round}, closed: ${last.close_reason}`],
    ["missing", last.missing.map(nameOf).join(", ") || "nobody"], ["update", last.codec || "none published"],
    ["digest", last.state_digest.slice(0, 16)]];
  if (last.epsilon !== null) told.push(["epsilon", figure(last.epsilon)]);
  for (const [name, value] of Object.entries(last.metrics)) {
    const isShare = SHARES.test(name) && value >= 0 && value <= 1;
    told.push([name, value === null ? "-" : isShare ? `${(100 * value).toFixed(1)} %` : figure(value)]);
  }
  $("last").replaceChildren(...told.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

function drawSamples(samples) {
  $("samples-section").hidden = !samples.length;
  $("samples").replaceChildren(...samples.map((sample) => {
    const caption = make("figcaption", {}, sample.title);
    const pictures = Object.entries(sample.pictures);
    if (pictures.length) {
      const shown = pictures.map(([name, file]) => make("figure", {},
        make("img", { src: `data:image/${file.startsWith("iVBOR") ? "png" : "jpeg"};base64,${file}`, alt: `${sample.title}: ${name}` }),
        make("figcaption", { "aria-hidden": "true" }, name)));
      return make("figure", {}, make("div", { class: "triple" }, ...shown), caption);
    }
    const place = make("div", { class: "lines" });
    requestAnimationFrame(() => chart(place, Object.entries(sample.lines).map(([name, values], i) => ({
      name, colour: `c${i}`, points: values.map((v, at) => [at, v]).filter(([, v]) => v !== null),
    })), { x: { label: "step", name: "step", format: String, keep: Number.isInteger }, y: { format: figure }, title: `${sample.title}: ${Object.keys(sample.lines).join(" and ")}` }));
    return make("figure", {}, place, caption);
  }));
}

function addEvents(events) {
  const log = $("log"), box = log.parentElement;
  const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
  for (const event of events) {
    const kind = { warning: "warn", error: "bad", critical: "bad" }[event.level] ?? "";
    log.append(make("li", { class: kind }, make("time", {}, new Date(1000 * event.time).toLocaleTimeString()),
      kind ? `${event.level}: ${event.text}` : event.text));
  }
  while (log.children.length > MAX_LOG) log.firstElementChild.remove();
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

// As the peer keeps them: half as many of the older half, once they are too many.
function thinned(points) {
  const limit = Math.max(MAX_POINTS / Math.max(Object.keys(state.curves).length, 1), MIN_POINTS);
  if (points.length <= limit) return points;
  const half = Math.floor(points.length / 2);
  return points.filter((_, at) => at >= half || at % 2 === 0);
}

function addRounds({ curves, timeline, last }) {
  for (const [peer, points] of Object.entries(curves)) {
    const known = (state.curves[peer] ?? []).filter((p) => p[0] < points[0][0]);
    state.curves[peer] = thinned([...known, ...points]);
  }
  const others = Object.keys(state.curves).filter((peer) => peer !== state.facts.peer);
  for (const peer of others.slice(0, Math.max(0, others.length + 1 - MAX_POINTS / MIN_POINTS))) {
    delete state.curves[peer];
    colours.delete(peer);
  }
  state.timeline = timeline;
  state.last = last;
}

function redraw() {
  state.isDrawn = true;
  if (!state.facts || !state.status) return;
  const { facts, status } = state;
  document.title = `${status.round}/${status.rounds} ${task()}`;
  $("title").textContent = `${task()}, run ${facts.run}, round ${status.round} of ${status.rounds}`;
  $("doing").textContent = `${facts.name}: ${status.doing} (${seconds(status.phase_s)})`;
  const bar = $("progress");
  bar.setAttribute("aria-valuemax", status.rounds);
  bar.setAttribute("aria-valuenow", status.round);
  bar.firstElementChild.style.width = `${(100 * status.round) / Math.max(status.rounds, 1)}%`;
  drawPeers(state);
  drawNetwork(state);
  drawCurves(state);
  drawLast(state);
}

function soon() {
  if (!state.isDrawn) return;
  state.isDrawn = false;
  setTimeout(() => requestAnimationFrame(redraw), REDRAW_MS);
}

function tell(kind, text) {
  const pill = $("stream");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${kind}`;
}

const hasEnded = () => state.status?.phase === "finished";

function listen() {
  const stream = new EventSource("events");
  const on = (kind, take) => stream.addEventListener(kind, (event) => {
    state.heardAt = Date.now();
    take(JSON.parse(event.data));
    soon();
  });
  on("facts", (facts) => {
    Object.assign(state, { facts, curves: {}, timeline: [], last: null });
    $("log").replaceChildren();
  });
  on("status", (status) => {
    state.status = status;
    tell(hasEnded() ? "dim" : "ok", hasEnded() ? "the peer has ended" : "live");
  });
  on("rounds", addRounds);
  on("events", addEvents);
  on("samples", drawSamples);
  stream.onerror = () => {
    if (!hasEnded()) tell("bad", "no connection to the peer");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  };
}

addEventListener("resize", soon);
listen();
