"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** JSON has no NaN and no infinities: where something was measured they stand as text. */
function readMeasured({ sensitivity, repair }) {
  if (sensitivity) {
    sensitivity.dense = Number(sensitivity.dense);
    for (const points of Object.values(sensitivity.groups)) for (const point of points) point[1] = Number(point[1]);
  }
  for (const weight of repair ? repair.repaired : []) weight.splice(1, 2, Number(weight[1]), Number(weight[2]));
}
readMeasured(D.measured);

// ------------------------------------------------------------ elements and numbers

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function drawing(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A bar of which a share between 0 and 1 is filled. */
function bar(share, kind = "") {
  const filled = make("span", { class: kind });
  filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("div", { class: "bar" }, filled);
}

/** The largest of what is finite, above zero. */
const largest = (numbers) => Math.max(...numbers.filter(Number.isFinite), 1e-12);
/** The share of a bar for something that may have diverged, which fills it. */
const shareOf = (number, all) => (Number.isFinite(number) ? number / all : 1);
const rounded = (number) => String(Number(number.toPrecision(4)));
/** NaN is sorted as the worst. */
const sortable = (number) => (Number.isNaN(number) ? Infinity : number);

const count = (number) => Number(number).toLocaleString("en-US");
const several = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

/** A share in percent; what is not nothing, or not all, does not look like it. */
function percentage(share) {
  const near = Math.min(share, 1 - share);
  if (near > 0 && near < 0.0005) return share < 0.5 ? "< 0.1\u00a0%" : "> 99.9\u00a0%";
  const digits = share < 0.0995 || share > 0.9949 ? 1 : 0;
  return `${near === 0 ? share * 100 : (share * 100).toFixed(digits)}\u00a0%`;
}

/** A number in four significant places, as people read it. */
function human(number, unit = "") {
  const value = Number(number);
  for (const [factor, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= factor) return `${Number((value / factor).toPrecision(4))} ${prefix}${unit}`;
  }
  return `${Number(value.toPrecision(4))}${unit ? ` ${unit}` : ""}`;
}

const entries = (sizes) => sizes.reduce((product, size) => product * size, 1);

const TITLES = { macs: "MACs", params: "Parameters", bytes: "Bytes" };
const unitOf = (kind) => (kind === "bytes" ? "B" : "");

// ------------------------------------------------------------ the cost function

const units = D.groups.map((group) => group.units);
const nothing = new Set();
const unchanged = { sizes: D.sizes, kept: units, taken: [], range: null, skipped: nothing, totals: null, merged: {}, error: "" };

/** What repeating each coupled step so many times leaves. */
function stepped(range, taken) {
  const sizes = D.sizes.slice();
  for (const [dimension, slopes] of Object.entries(range.slopes)) {
    for (const [step, slope] of slopes) sizes[dimension] -= slope * taken[step];
  }
  const kept = units.slice();
  range.steps.forEach((parts, step) => parts.forEach(([group, each]) => { kept[group] -= each * taken[step]; }));
  return { ...unchanged, sizes, kept, taken, range };
}

/** What graph.plan(percent / 100) leaves. */
function atRatio(percent) {
  const range = D.ranges.find((one) => one.first <= percent && percent <= one.last);
  if (!range) return { ...unchanged, percent };
  if (range.error) return { ...unchanged, percent, error: range.error };
  const taken = range.schedule.map((number) => range.schedules[number][percent - range.first]);
  return { ...stepped(range, taken), percent };
}

function ofPlan() {
  const skipped = new Set(D.plan.skipped);
  D.modules.forEach(([parent], number) => { if (skipped.has(parent)) skipped.add(number); });
  return { ...unchanged, sizes: D.plan.sizes, kept: D.plan.kept, skipped, totals: D.plan.costs, merged: D.plan.merged, plan: true };
}

/** By the number of a module of which heads are merged, the fraction of its entries that is left. */
function mergedShares(merged) {
  const shares = {};
  for (const [tensor, sizes] of Object.entries(merged)) shares[D.tensors[tensor][0]] = entries(sizes) / entries(D.tensors[tensor][2]);
  return shares;
}

/** By kind, the cost of a state: in all, and of each module with all that it holds. */
function costsOf(state) {
  const sizes = state.sizes.map(BigInt);
  const shares = mergedShares(state.merged);
  const found = {};
  for (const { name, rows } of D.costs) {
    const inside = new Array(D.modules.length).fill(0);
    let total = 0n;
    for (const [module, scale, ...dimensions] of rows) {
      if (state.skipped.has(module)) continue;
      let product = BigInt(scale);
      for (const dimension of dimensions) product *= sizes[dimension];
      total += product;
      inside[module] += Number(product) * (shares[module] ?? 1);
    }
    for (let module = D.modules.length - 1; module > 0; module--) inside[D.modules[module][0]] += inside[module];
    found[name] = { total: state.totals ? BigInt(state.totals[name]) : total, inside };
  }
  return found;
}

const before = costsOf(unchanged);
let state = unchanged;
let costs = before;
const shareLeft = (kind, now = costs) => (before[kind].total ? Number(now[kind].total) / Number(before[kind].total) : 1);

// ------------------------------------------------------------ the network

const paths = [];
const inside = D.modules.map(() => []);
D.modules.forEach(([parent, name], number) => {
  paths.push(parent > 0 ? `${paths[parent]}.${name}` : parent === 0 ? name : "");
  if (parent >= 0) inside[parent].push(number);
});
const label = (module) => paths[module] || D.title;
const tensorsOf = D.modules.map(() => []);
D.tensors.forEach(([module], number) => tensorsOf[module].push(number));
const tensorName = (tensor) => {
  const [module, name] = D.tensors[tensor];
  return module ? `${paths[module]}.${name}` : name;
};
const sizesOf = (tensor, now) => now.merged[tensor] || D.tensors[tensor][2].map((size, place) => (D.tensors[tensor][3][place] ? now.sizes[D.tensors[tensor][3][place]] : size));

const planned = D.ranges.filter((range) => !range.error);
/** The groups from which some ratio takes something. */
const moving = new Set(planned.flatMap((range) => range.steps
  .filter((_, step) => range.schedules[range.schedule[step]].some((times) => times > 0))
  .flatMap((parts) => parts.map(([group]) => group))));
const onAxis = new Map();
D.groups.forEach((group, number) => group.axes.forEach(([tensor, place]) => {
  const key = `${tensor}:${place}`;
  if (!onAxis.has(key)) onAxis.set(key, []);
  onAxis.get(key).push(number);
}));
/** The group that an axis is colored by: one that can lose something, if there is one. */
function groupOn(tensor, place) {
  const found = onAxis.get(`${tensor}:${place}`) || [];
  return found.find((group) => moving.has(group)) ?? found[0] ?? null;
}
const colors = new Map([...moving].sort((a, b) => a - b).map((group, number) => [group, number]));

function square(group) {
  const number = colors.get(group);
  const look = number === undefined ? "still" : `c${number % 8} p${Math.floor(number / 8) % 4}`;
  return make("span", { class: `square ${look}`, "data-group": group });
}

/** What a module reads and makes, by its largest weight: the tensor, and the places of the two sizes. */
function flow(module) {
  const own = tensorsOf[module].filter((tensor) => D.tensors[tensor][4] && D.tensors[tensor][2].length);
  if (!own.length) return null;
  const tensor = own.reduce((a, b) => (entries(D.tensors[b][2]) > entries(D.tensors[a][2]) ? b : a));
  const places = D.tensors[tensor][2].map((_, place) => place).filter((place) => onAxis.has(`${tensor}:${place}`));
  if (D.tensors[tensor][2].length < 2 || (places.length && Math.min(...places) > 1)) return { tensor, reads: null, makes: places[0] ?? 0 };
  const swapped = /Embedding|ConvTranspose/.test(D.modules[module][2]);
  return { tensor, reads: swapped ? 0 : 1, makes: swapped ? 1 : 0 };
}

const live = [];
const refresh = (element, update) => { live.push(() => update(element)); update(element); return element; };

/** "■ 256 → 64 ■": the sizes at present, between the squares of the groups that they belong to. */
function sizesLine(module) {
  const found = flow(module);
  if (!found) return null;
  const { tensor, reads, makes } = found;
  const text = refresh(make("span"), (span) => {
    const sizes = sizesOf(tensor, state);
    span.textContent = reads === null ? sizes[makes] : `${sizes[reads]} → ${sizes[makes]}`;
  });
  const marks = [reads, makes].map((place) => (place === null ? null : groupOn(tensor, place)));
  return make("span", { class: "sizes" }, marks[0] === null ? null : square(marks[0]), text, marks[1] === null ? null : square(marks[1]));
}

/** The groups that a module and what it holds take part in. */
const groupsIn = D.modules.map(() => new Set());
/** The groups of a module's own tensors. */
const membersOf = D.modules.map(() => []);
D.groups.forEach((group, number) => group.axes.forEach(([tensor]) => {
  membersOf[D.tensors[tensor][0]].push(number);
  for (let module = D.tensors[tensor][0]; module >= 0; module = D.modules[module][0]) groupsIn[module].add(number);
}));

/** What stands in a module: modules, and runs of three and more equal ones after the first of each. */
function itemsIn(module) {
  const found = [];
  const all = inside[module];
  for (let start = 0; start < all.length;) {
    let end = start + 1;
    while (end < all.length && D.modules[all[end]][3] === D.modules[all[start]][3] && inside[all[start]].length) end++;
    found.push({ module: all[start] });
    if (end - start >= 3) found.push({ run: all.slice(start + 1, end) });
    else for (const other of all.slice(start + 1, end)) found.push({ module: other });
    start = end;
  }
  return found;
}

function itemElement(item, level) {
  const element = make("li", { role: "treeitem", "aria-level": level, "aria-selected": "false", tabindex: -1 });
  if (item.run) {
    const names = item.run.map((module) => D.modules[module][1]);
    const text = `+ ${item.run.length} alike`;
    element.setAttribute("aria-label", `${item.run.length} more like it, ${names[0]} to ${names[names.length - 1]}`);
    element.append(make("div", { class: "head" }, make("span", { class: "twist", "aria-hidden": "true" }, "▸"), make("b", {}, text), make("br"), refresh(make("span", { class: "kind" }), (span) => {
      const skipped = item.run.filter((module) => state.skipped.has(module)).length;
      span.textContent = `${names[0]} … ${names[names.length - 1]}${skipped ? `, ${skipped} left out` : ""}`;
    })));
    element.items = item.run.map((module) => ({ module }));
  } else {
    const [, name, kind] = D.modules[item.module];
    element.module = item.module;
    element.items = itemsIn(item.module);
    element.append(moduleHead(item.module, name, kind, element.items.length > 0));
    element.setAttribute("aria-label", spoken(item.module));
    if (!before.params.inside[item.module] && !element.items.length) element.classList.add("pill");
    refresh(element, () => element.classList.toggle("skipped", state.skipped.has(item.module)));
  }
  if (element.items.length) element.setAttribute("aria-expanded", "false");
  return element;
}

function moduleHead(module, name, kind, folded) {
  const head = make("div", { class: "head" });
  head.append(make("div", {}, folded ? make("span", { class: "twist", "aria-hidden": "true" }, "▸") : null, make("b", {}, name), " ", folded && kind !== name ? make("span", { class: "kind" }, kind) : null));
  if (!folded && kind !== name) head.append(make("div", { class: "kind" }, kind));
  const sizes = sizesLine(module);
  if (sizes) head.append(sizes);
  if (folded) {
    const shown = [...groupsIn[module]].filter((group) => moving.has(group));
    head.append(make("div", { class: "squares" }, ...shown.slice(0, 10).map(square), shown.length > 10 ? make("span", { class: "kind" }, `+${shown.length - 10}`) : null));
  }
  if (before.params.inside[module]) {
    const share = bar(1);
    share.classList.add("share");
    head.append(refresh(share, () => { share.firstChild.style.width = `${(100 * costs.params.inside[module]) / before.params.inside[module]}%`; }));
  }
  return head;
}

function spoken(module) {
  const found = flow(module);
  const said = [`${D.modules[module][1]}, ${D.modules[module][2]}`];
  if (before.params.inside[module]) said.push(`${human(before.params.inside[module])} parameters`);
  if (found && found.reads !== null && groupOn(found.tensor, found.reads) !== null) said.push(`reads ${D.groups[groupOn(found.tensor, found.reads)].name}`);
  if (found && groupOn(found.tensor, found.makes) !== null) said.push(`makes ${D.groups[groupOn(found.tensor, found.makes)].name}`);
  return said.join(", ");
}

function unfold(element, open) {
  if (!element.items.length) return;
  if (open && !element.list) {
    const level = Number(element.getAttribute("aria-level")) + 1;
    element.list = make("ul", { role: "group" }, ...element.items.map((item) => itemElement(item, level)));
    element.append(element.list);
  }
  if (element.list) element.list.hidden = !open;
  if (selected) light(null);
  element.setAttribute("aria-expanded", String(open));
  element.querySelector(".twist").textContent = open ? "▾" : "▸";
}

const tree = $("tree");
/** What the details are about: { module } or { group }. */
let selected = null;
const shownItems = () => [...tree.querySelectorAll("[role=treeitem]")].filter((item) => !item.parentElement.closest("[hidden]"));
const isOpen = (item) => item.getAttribute("aria-expanded") === "true";
const isFolded = (item) => item.getAttribute("aria-expanded") === "false";

/** Unfold whole levels as long as not too much is shown; runs of equal modules stay folded. */
function unfoldFirst(most) {
  for (let grown = true; grown;) {
    grown = false;
    for (const item of shownItems().filter((one) => isFolded(one) && one.module !== undefined)) {
      if (shownItems().length + item.items.length > most) return;
      unfold(item, true);
      grown = true;
    }
  }
}

let current = null;
function moveTo(item, focus = true) {
  if (!item) return;
  if (current) current.tabIndex = -1;
  current = item;
  item.tabIndex = 0;
  if (focus) { item.focus({ preventScroll: true }); item.firstChild.scrollIntoView({ block: "nearest", inline: "nearest" }); }
}

function onTreeKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const all = shownItems();
  const place = all.indexOf(current);
  const parent = current.parentElement.closest("[role=treeitem]");
  const actions = {
    ArrowDown: () => moveTo(all[place + 1]),
    ArrowUp: () => moveTo(all[place - 1]),
    ArrowRight: () => (isFolded(current) ? unfold(current, true) : moveTo(all[place + 1])),
    ArrowLeft: () => (isOpen(current) ? unfold(current, false) : moveTo(parent || all[place - 1])),
    Home: () => moveTo(all[0]),
    End: () => moveTo(all[all.length - 1]),
    Enter: () => choose(current),
    " ": () => choose(current),
    Escape: () => select(null),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

/** Select what an item stands for; a run is unfolded. */
function choose(item) {
  if (item.module === undefined) unfold(item, !isOpen(item));
  else select({ module: item.module });
}

// ------------------------------------------------------------ what is selected

function select(what) {
  selected = what;
  for (const item of tree.querySelectorAll("[role=treeitem]")) {
    item.setAttribute("aria-selected", String(Boolean(what) && what.module !== undefined && item.module === what.module));
  }
  for (const row of document.querySelectorAll("tr[data-row]")) {
    row.classList.toggle("chosen", Boolean(what) && (row.dataset.row === `g${what.group}` || row.dataset.row === `m${what.module}`));
  }
  light(null);
  showDetail();
}

/** Mark the squares of some groups and the modules that hold members of them; null: of what is selected. */
function light(groups) {
  const marked = groups || (selected && selected.group !== undefined ? [selected.group] : []);
  tree.classList.toggle("lit", Boolean(groups) && marked.length > 0);
  for (const one of document.querySelectorAll(".square")) one.classList.toggle("lit", marked.includes(Number(one.dataset.group)));
  for (const item of tree.querySelectorAll("[role=treeitem]")) {
    const members = item.module === undefined ? [] : isOpen(item) ? membersOf[item.module] : [...groupsIn[item.module]];
    item.classList.toggle("member", members.some((group) => marked.includes(group)));
  }
}

const ROLES = {
  width: "channels that a residual sum ties together, in every layer that adds to it",
  mlp: "inner channels, which belong to one block",
  heads: "attention heads",
  kv_groups: "heads of keys and values, with the query heads that share them",
  head_width: "channels within each head",
  experts: "experts of a mixture",
  groups: "groups of a convolution or normalization",
};

function groupLink(group) {
  return make("button", { type: "button", class: "group-link", "data-group": group, onclick: () => select({ group }) }, square(group), make("span", {}, D.groups[group].name));
}

/** A list of which only the first entries are shown until one asks for all. */
function listOf(nodes, shown = 8) {
  const list = make("ul", {}, ...nodes.slice(0, shown).map((node) => make("li", {}, node)));
  if (nodes.length > shown) {
    const more = make("button", { type: "button", onclick: () => {
      more.parentElement.remove();
      list.append(...nodes.slice(shown).map((node) => make("li", {}, node)));
    } }, `show all ${nodes.length}`);
    list.append(make("li", {}, more));
  }
  return list;
}

function showDetail() {
  const panel = $("detail");
  if (!selected) {
    panel.replaceChildren(...beginning());
  } else panel.replaceChildren(...(selected.group !== undefined ? groupDetail(selected.group) : moduleDetail(selected.module)));
}

/** What groups there are, before anything is selected. */
function beginning() {
  const roles = Object.keys(ROLES).filter((role) => D.groups.some((group) => group.role === role));
  const nodes = [make("p", { class: "help" }, "Select a module or a group to see what goes with it, and why.")];
  if (roles.length) nodes.push(make("h3", {}, "What groups there are"));
  nodes.push(make("ul", {}, ...roles.map((role) => {
    const found = D.groups.map((group, number) => number).filter((number) => D.groups[number].role === role);
    const loses = found.some((number) => moving.has(number));
    return make("li", {}, make("b", {}, `${found.length} × ${role}`), `: ${ROLES[role]}${loses ? "" : " (a ratio takes nothing from them)"}`);
  })));
  return nodes;
}

function groupDetail(number) {
  const group = D.groups[number];
  const kept = state.kept[number];
  const nodes = [
    make("h3", {}, square(number), ` ${group.name}`),
    make("p", { class: "muted" }, `${group.role}: ${ROLES[group.role] || ""}`),
    make("p", { class: "big" }, kept === group.units ? several(group.units, "unit") : `${count(group.units)} → ${several(kept, "unit")}`),
    make("p", {}, `Takes part in ${percentage(group.macs)} of the MACs and ${percentage(group.params)} of the parameters.`),
    ...whyKept(number),
    ...oneMore(number),
    make("h3", {}, `Members (${group.axes.length})`),
    listOf(group.axes.map(([tensor, place]) => memberText(tensor, place))),
  ];
  if (group.ties.length) {
    nodes.push(make("h3", {}, "They go together because of"));
    nodes.push(listOf(group.ties.map(([operation, where, pairs, example]) => make("span", { title: example }, make("code", {}, operation.replace("aten::", "")), ` at ${where}${pairs > 1 ? ` (${pairs} pairs)` : ""}`)), 5));
  }
  return [...nodes, ...measuredOf(number)];
}

function memberText(tensor, place) {
  const sizes = sizesOf(tensor, state);
  const dense = D.tensors[tensor][2];
  const changed = dense[place] === sizes[place] ? count(dense[place]) : `${count(dense[place])} → ${count(sizes[place])}`;
  return make("span", {}, make("code", {}, `${tensorName(tensor)}[${place}]`), ` ${changed}`);
}

function whyKept(number) {
  if (state.plan) return D.plan.why[number] ? [make("p", { class: "muted" }, `In the plan: ${D.plan.why[number]}.`)] : [];
  const range = state.range || planned[planned.length - 1];
  if (!range || range.steps.some((parts) => parts.some(([group]) => group === number))) return [];
  return [make("p", { class: "muted" }, `A ratio takes nothing from it: ${range.why[number]}.`)];
}

/** What the next repetition of a group's coupled step would save. */
function oneMore(number) {
  const range = state.plan ? null : state.range || planned.find((one) => one.steps.some((parts) => parts.some(([group]) => group === number)));
  const step = range ? range.steps.findIndex((parts) => parts.some(([group]) => group === number)) : -1;
  if (step < 0) return [];
  const taken = state.range ? state.taken.slice() : range.steps.map(() => 0);
  const parts = range.steps[step];
  const nodes = [];
  if (parts.every(([group, each]) => state.kept[group] - each >= 1)) {
    taken[step] += 1;
    const then = costsOf(stepped(range, taken));
    const saved = (kind) => Number(costs[kind].total - then[kind].total);
    const [, each] = parts.find(([group]) => group === number);
    const others = parts.length > 1 ? " with what goes in step" : "";
    nodes.push(make("p", {}, `Removing ${each === 1 ? "one more unit" : `${each} more units`}${others} saves ${human(saved("macs"))} MACs and ${human(saved("params"))} parameters.`));
  }
  if (parts.length > 1) {
    nodes.push(make("h3", {}, "In step with"));
    nodes.push(listOf(parts.filter(([group]) => group !== number).map(([group, each]) => make("span", {}, `${each} of `, groupLink(group))), 5));
  }
  return nodes;
}

function measuredOf(number) {
  const nodes = [];
  const { sensitivity, repair } = D.measured;
  const points = sensitivity && sensitivity.groups[D.groups[number].name];
  if (points) nodes.push(make("h3", {}, "Loss with this group pruned alone"), spark(sensitivity.dense, points));
  if (repair) {
    const members = new Set(D.groups[number].axes.map(([tensor]) => tensorName(tensor)));
    const fitted = repair.repaired.filter(([name]) => members.has(name));
    if (fitted.length) {
      nodes.push(make("h3", {}, "Error before and after repair"));
      nodes.push(listOf(fitted.map(([name, first, then]) => make("span", {}, make("code", {}, name), ` ${(first * 100).toFixed(2)} % → ${(then * 100).toFixed(2)} %`))));
    }
  }
  return nodes;
}

function spark(dense, points) {
  const all = [[0, dense], ...points];
  const finite = all.filter(([, loss]) => Number.isFinite(loss));
  const low = Math.min(...finite.map(([, loss]) => loss));
  const high = Math.max(...finite.map(([, loss]) => loss));
  const place = ([gone, loss]) => [6 + 288 * gone, 62 - (54 * (loss - low)) / (high - low || 1)];
  const text = all.map(([gone, loss]) => `${percentage(gone)}: ${rounded(loss)}`).join(", ");
  const picture = drawing("svg", { viewBox: "0 0 300 70", class: "spark", role: "img", "aria-label": `Loss by fraction removed: ${text}` },
    drawing("line", { x1: 6, y1: 66, x2: 294, y2: 66 }),
    drawing("polyline", { points: finite.map((one) => place(one).join(",")).join(" ") }),
    ...finite.map((one) => drawing("circle", { cx: place(one)[0], cy: place(one)[1], r: 3 })));
  return make("div", {}, picture, make("p", { class: "muted" }, text));
}

function moduleDetail(module) {
  const groups = [...groupsIn[module]];
  const own = tensorsOf[module];
  const nodes = [make("h3", {}, label(module)), make("p", { class: "muted" }, D.modules[module][2])];
  if (state.skipped.has(module)) nodes.push(make("p", {}, "The plan leaves it out whole."));
  for (const kind of ["params", "macs"]) {
    const [first, now] = [before[kind].inside[module], costs[kind].inside[module]];
    if (first) nodes.push(make("p", {}, `${TITLES[kind]}: ${human(first)}${now === first ? "" : ` → ${human(now)}`} (${percentage(first / Number(before[kind].total))} of the model)`));
  }
  if (own.length) {
    nodes.push(make("h3", {}, "Tensors"), listOf(own.map((tensor) => make("span", {}, make("code", {}, D.tensors[tensor][1]), ` ${changes(tensor)}`))));
  }
  if (groups.length) nodes.push(make("h3", {}, "Groups that it takes part in"), listOf(groups.map(groupLink), 12));
  return nodes;
}

function changes(tensor) {
  const dense = D.tensors[tensor][2].join("×") || "one number";
  const now = sizesOf(tensor, state).join("×") || "one number";
  return now === dense ? dense : `${dense} → ${now}`;
}

// ------------------------------------------------------------ hovering

function tipText(target) {
  const mark = target.closest("[data-group]");
  if (mark) {
    const group = D.groups[Number(mark.dataset.group)];
    const tie = group.ties[0];
    const because = tie ? `; together by ${tie[0].replace("aten::", "")} at ${tie[1]}${group.ties.length > 1 ? ", …" : ""}` : "";
    return [`${group.name} (${group.role}): ${several(group.units, "unit")} in ${several(group.axes.length, "axis").replace("axises", "axes")}${because}`, [Number(mark.dataset.group)]];
  }
  const item = target.closest("[role=treeitem]");
  if (!item || item.module === undefined) return null;
  const found = flow(item.module);
  const groups = found ? [found.reads, found.makes].filter((place) => place !== null).map((place) => groupOn(found.tensor, place)).filter((group) => group !== null) : [];
  return [`${label(item.module)}: ${spoken(item.module).split(", ").slice(1).join(", ")}`, groups];
}

function onHover(event) {
  const found = tipText(event.target);
  const tip = $("tip");
  tip.hidden = !found;
  light(found ? found[1] : null);
  if (!found) return;
  tip.textContent = found[0];
  const x = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  const y = event.clientY + 18 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18;
  tip.style.left = `${Math.max(8, x)}px`;
  tip.style.top = `${y}px`;
}

function onLeave() {
  $("tip").hidden = true;
  light(null);
}

// ------------------------------------------------------------ tables

/** A card with a table that can be sorted, and searched if `search` gives the text of a row. */
function tableCard(id, title, help, columns, rows, { search = null, key = null, sorted = null } = {}) {
  const body = make("tbody");
  const elements = rows.map((row) => {
    const cells = columns.map((column, place) => {
      const cell = make(place ? "td" : "th", { class: column.number ? "number" : null, scope: place ? null : "row" });
      const fill = () => cell.replaceChildren(column.cell(row));
      if (column.live) refresh(cell, fill); else fill();
      return cell;
    });
    const element = make("tr", { "data-row": key ? key(row) : null }, ...cells);
    element.row = row;
    return element;
  });
  const heads = columns.map((column) => make("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" }, make("button", { type: "button", onclick: () => sortBy(column) }, column.name)));
  function sortBy(column, way = null) {
    const head = heads[columns.indexOf(column)];
    const first = column.number ? "descending" : "ascending";
    const direction = way || (head.getAttribute("aria-sort") === "none" ? first : head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
    for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
    const sign = direction === "ascending" ? 1 : -1;
    const value = (element) => column.value(element.row);
    const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a === b ? 0 : a - b);
    elements.sort((a, b) => sign * order(value(a), value(b)));
    body.replaceChildren(...elements);
  }
  body.replaceChildren(...elements);
  if (sorted) sortBy(columns.find((column) => column.name === sorted), "descending");
  const table = make("table", { id: `${id}-table` }, make("thead", {}, make("tr", {}, ...heads)), body);
  const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Table: ${title}` }, table);
  return make("section", { class: "card", id, "aria-labeledby": `${id}-title` },
    make("div", { class: "title" }, make("h2", { id: `${id}-title` }, title), search ? searchField(id, elements, search) : null),
    help ? make("p", { class: "help" }, help) : null, scroll);
}

function searchField(id, elements, search) {
  const found = make("span", { role: "status", id: `${id}-count`, class: "muted" }, several(elements.length, "row"));
  const field = make("input", { type: "search", id: `${id}-search`, placeholder: "name, role, class …", oninput: () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const element of elements) {
      const text = search(element.row).toLowerCase();
      element.hidden = !words.every((word) => text.includes(word));
      left += element.hidden ? 0 : 1;
    }
    found.textContent = words.length ? `${left} of ${several(elements.length, "row")}` : several(elements.length, "row");
  } });
  return make("div", { class: "search" }, make("label", { for: `${id}-search` }, "Search"), field, found);
}

const changed = (first, now, unit = "") => (first === now ? make("span", {}, human(first, unit)) : make("span", {}, `${human(first, unit)} → `, make("span", { class: "slim" }, human(now, unit))));

function groupsCard() {
  const rows = D.groups.map((group, number) => ({ group, number }));
  const columns = [
    { name: "Group", value: (row) => row.group.name, cell: (row) => groupLink(row.number) },
    { name: "Role", value: (row) => row.group.role, cell: (row) => row.group.role },
    { name: "Units", number: true, value: (row) => row.group.units, cell: (row) => count(row.group.units) },
    { name: "Stay", number: true, live: true, value: (row) => state.kept[row.number], cell: (row) => make("span", { class: state.kept[row.number] < row.group.units ? "slim" : "" }, count(state.kept[row.number])) },
    { name: "Axes", number: true, value: (row) => row.group.axes.length, cell: (row) => count(row.group.axes.length) },
    { name: "Share of MACs", number: true, value: (row) => row.group.macs, cell: (row) => percentage(row.group.macs) },
    { name: "Share of parameters", number: true, value: (row) => row.group.params, cell: (row) => percentage(row.group.params) },
  ];
  return tableCard("groups", "Groups", "What goes together. A unit is the smallest thing that can be removed. Shares say in how much of the model a group takes part; they overlap.", columns, rows, { search: (row) => `${row.group.name} ${row.group.role}`, key: (row) => `g${row.number}` });
}

function layersCard() {
  const rows = D.modules.map((_, module) => module).filter((module) => tensorsOf[module].some((tensor) => D.tensors[tensor][4]));
  const main = (module) => flow(module)?.tensor ?? tensorsOf[module][0];
  const own = (module, kind, now) => now[kind].inside[module] - inside[module].reduce((sum, child) => sum + now[kind].inside[child], 0);
  const cost = (kind) => ({ name: TITLES[kind], number: true, live: true, value: (module) => own(module, kind, costs), cell: (module) => changed(own(module, kind, before), own(module, kind, costs)) });
  const columns = [
    { name: "Layer", value: (module) => label(module), cell: (module) => make("button", { type: "button", class: "group-link", onclick: () => select({ module }) }, label(module)) },
    { name: "Class", value: (module) => D.modules[module][2], cell: (module) => D.modules[module][2] },
    { name: "Largest tensor", value: (module) => entries(D.tensors[main(module)][2]), live: true, cell: (module) => make("span", {}, make("code", {}, D.tensors[main(module)][1]), ` ${changes(main(module))}`) },
    cost("params"), cost("macs"),
  ];
  return tableCard("layers", "Layers before and after", "Modules that hold parameters of their own.", columns, rows, { search: (module) => `${label(module)} ${D.modules[module][2]}`, key: (module) => `m${module}` });
}

function frozenCard() {
  const { whole, part, none } = D.free;
  const stack = make("div", { class: "bar stack", role: "img", "aria-label": `${percentage(whole)} of the parameters can shrink along every axis with channels, ${percentage(part)} along some, ${percentage(none)} cannot` });
  for (const [share, kind] of [[whole, "whole"], [part, "some"], [none, "none"]]) {
    const piece = make("span", { class: kind });
    piece.style.width = `${share * 100}%`;
    stack.append(piece);
  }
  const key = make("ul", { class: "key" }, ...[["whole", whole, "can shrink along every axis that has channels"], ["some", part, "can shrink along some axes; others are frozen"], ["none", none, "cannot shrink"]].map(([kind, share, text]) => make("li", { class: kind }, make("i"), `${percentage(share)} ${text}`)));
  const columns = [
    { name: "Why", value: (one) => one.why, cell: (one) => one.why },
    { name: "Axes", number: true, value: (one) => one.axes.length, cell: (one) => count(one.axes.length) },
    { name: "Share of parameters", number: true, value: (one) => one.params, cell: (one) => percentage(one.params) },
    { name: "Where", value: (one) => one.axes[0][0], cell: (one) => whereFrozen(one.axes) },
  ];
  const card = tableCard("frozen", "What is frozen, and why", null, columns, D.frozen, { sorted: "Share of parameters" });
  card.insertBefore(make("div", {}, make("p", { class: "help" }, "Shares of all parameters:"), stack, key), card.lastChild);
  return card;
}

function whereFrozen(axes) {
  const nodes = axes.map(([axis, number, size, place]) => make("span", {}, make("code", {}, axis), number < size ? ` ${number} of ${size} entries` : "", place ? make("span", { class: "muted" }, ` at ${place}`) : null));
  if (nodes.length === 1) return nodes[0];
  return make("details", {}, make("summary", {}, nodes[0]), listOf(nodes.slice(1), 40));
}

function sensitivityCard() {
  const { dense, ratios, groups } = D.measured.sensitivity;
  const numbers = new Map(D.groups.map((group, number) => [group.name, number]));
  const rows = Object.entries(groups).map(([name, points]) => ({ name, points }));
  const worst = largest(rows.flatMap((row) => row.points.map(([, loss]) => loss - dense)));
  const columns = [{ name: "Group", value: (row) => row.name, cell: (row) => (numbers.has(row.name) ? groupLink(numbers.get(row.name)) : row.name) }];
  ratios.forEach((ratio, place) => columns.push({
    name: percentage(ratio), number: true, value: (row) => sortable(row.points[place][1]),
    cell: (row) => make("div", {}, rounded(row.points[place][1]), bar(shareOf(row.points[place][1] - dense, worst))),
  }));
  return tableCard("sensitivity", "Sensitivity", `Loss with one group pruned alone; the whole model: ${rounded(dense)}. Bars show the rise.`, columns, rows, { search: (row) => row.name, sorted: percentage(ratios[ratios.length - 1]) });
}

function repairCard() {
  const { repaired, left_alone, norms } = D.measured.repair;
  const shown = (share) => `${(share * 100).toFixed(2)} %`;
  const worst = largest(repaired.map(([, first]) => first));
  const columns = [
    { name: "Weight", value: (one) => one[0], cell: (one) => make("code", {}, one[0]) },
    { name: "Error before", number: true, value: (one) => sortable(one[1]), cell: (one) => make("div", {}, shown(one[1]), bar(shareOf(one[1], worst))) },
    { name: "Error after", number: true, value: (one) => sortable(one[2]), cell: (one) => make("div", {}, shown(one[2]), bar(shareOf(one[2], worst))) },
    { name: "Of", value: (one) => String(one[3]), cell: (one) => (one[3] ? "the residual sum" : "its output") },
  ];
  const text = `Root mean square error relative to the dense model on the calibration batches. ${several(norms, "batch norm")} re-estimated, ${several(left_alone.length, "weight")} left alone.`;
  const card = tableCard("repair", "Repair", text, columns, repaired, { search: (one) => one[0] });
  if (left_alone.length) card.append(make("details", {}, make("summary", {}, "Left alone"), listOf(left_alone.map(([name, why]) => make("span", {}, make("code", {}, name), ` ${why}`)), 40)));
  return card;
}

function latencyCard() {
  const longest = Math.max(...D.measured.latency.map(([, seconds]) => seconds), 1e-12);
  const columns = [
    { name: "What", value: ([name]) => name, cell: ([name]) => name },
    { name: "Milliseconds", number: true, value: ([, seconds]) => seconds, cell: ([, seconds]) => make("div", {}, (seconds * 1e3).toPrecision(4), bar(seconds / longest)) },
  ];
  return tableCard("latency", "Latency", "As it was measured.", columns, D.measured.latency);
}

function verificationCard() {
  const { passed, text } = D.measured.verification;
  return make("section", { class: "card", id: "verification", "aria-labeledby": "verification-title" },
    make("h2", { id: "verification-title" }, "Verification"),
    make("p", { class: passed ? "passed" : "failed" }, passed ? "✓ passed" : "✗ did not pass"),
    ...text.split("\n").map((line) => make("p", {}, line)));
}

// ------------------------------------------------------------ the slider

function meter(kind) {
  const left = bar(1);
  const value = make("data", { class: "value", id: `cost-${kind}` });
  const of = make("span", { class: "of" });
  live.push(() => {
    value.value = costs[kind].total;
    value.textContent = human(costs[kind].total, unitOf(kind));
    of.textContent = ` of ${human(before[kind].total, unitOf(kind))}, ${percentage(shareLeft(kind))}`;
    left.firstChild.style.width = `${100 * shareLeft(kind)}%`;
  });
  return make("div", { class: "meter" }, make("div", { class: "name" }, TITLES[kind] || kind), make("div", {}, value, of), left);
}

function note() {
  if (state.plan) return `The plan: ${D.plan.asked}.`;
  if (state.error) return `There is no such plan. ${state.error.split("\n")[0]}`;
  if (!planned.length) return `There is no plan for any ratio. ${D.ranges[0].error.split("\n")[0]}`;
  if (!state.percent) return "Nothing is removed yet: move the slider.";
  const code = `graph.plan(${state.percent / 100})`;
  return state.range.exact ? `What ${code} leaves, counted in this page.` : `About what ${code} leaves: some sizes depend on which channels go.`;
}

function show(next) {
  state = next;
  costs = costsOf(state);
  for (const update of live) update();
  $("note").textContent = note();
  if (!state.plan) {
    const said = ["macs", "params"].map((kind) => `${percentage(shareLeft(kind))} of ${TITLES[kind]}`).join(" and ");
    $("ratio-output").textContent = `${state.percent || 0} %`;
    $("ratio").setAttribute("aria-valuetext", `${state.percent || 0} %: ${said} left`);
  }
  if (state.plan) $("ratio-output").textContent = "plan";
  showDetail();
}

// ------------------------------------------------------------ everything together

$("summary").textContent = [
  ...D.costs.map(({ name }) => `${human(before[name].total, unitOf(name))} ${name === "bytes" ? "" : name === "params" ? "parameters" : TITLES[name] || name}`.trim()),
  several(D.groups.length, "group"), `${count(D.frozen.reduce((sum, one) => sum + one.axes.length, 0))} frozen axes`,
].join(" · ");
$("meters").append(...D.costs.map(({ name }) => meter(name)));
tree.append(itemElement({ module: 0 }, 1));
unfoldFirst(36);
moveTo(tree.firstChild, false);

const cards = [D.groups.length ? groupsCard() : null, layersCard(), D.frozen.length ? frozenCard() : null];
const { sensitivity, repair, latency, verification } = D.measured;
if (sensitivity) cards.push(sensitivityCard());
if (repair) cards.push(repairCard());
if (latency) cards.push(latencyCard());
if (verification) cards.push(verificationCard());
$("tables").append(...cards.filter(Boolean));

tree.addEventListener("keydown", onTreeKey);
tree.addEventListener("click", (event) => {
  const item = event.target.closest("[role=treeitem]");
  if (!item) return;
  moveTo(item, false);
  const mark = event.target.closest("[data-group]");
  if (mark) return void select({ group: Number(mark.dataset.group) });
  if (item.module !== undefined) select({ module: item.module });
  if (item.items.length) unfold(item, !isOpen(item));
});
tree.addEventListener("focusin", (event) => moveTo(event.target.closest("[role=treeitem]"), false));
document.querySelector("main").addEventListener("mousemove", onHover);
document.querySelector("main").addEventListener("mouseleave", onLeave);
document.addEventListener("scroll", onLeave, { passive: true });
$("expand").addEventListener("click", () => { for (const item of shownItems().filter((one) => isFolded(one) && one.module !== undefined)) unfold(item, true); });
$("collapse").addEventListener("click", () => { for (const item of shownItems().reverse()) if (item !== tree.firstChild) unfold(item, false); moveTo(tree.firstChild, false); });
$("ratio").max = D.highest;
$("ratio").disabled = !planned.length;
$("ratio").addEventListener("input", () => {
  $("show-ratio").checked = true;
  show(atRatio(Number($("ratio").value)));
});
if (D.plan) {
  $("shown").hidden = false;
  $("show-plan").addEventListener("change", () => show(ofPlan()));
  $("show-ratio").addEventListener("change", () => show(atRatio(Number($("ratio").value))));
}
show(D.plan ? ofPlan() : atRatio(Number($("ratio").value)));
})();
