// The rows of a dataset report: filter them, mark them, save the marks (`report_marks.js`, which stands before this in
// the page). Texts from the data only ever become text nodes.

const { head, groups, rows } = JSON.parse(document.getElementById("data").textContent);
const FIRST = 8, STEP = 24; // cards drawn at first, and each time that more are asked for
const marks = new Map(); // id → mark
const tags = { "-": "del", "+": "ins", "~": "mark", "!": "mark" };
const classes = { "!": "evidence" };
const byId = (id) => document.getElementById(id);
const [bar, groupList, categoryList, search, found, save, list, more] =
  ["bar", "group", "category", "search", "found", "save", "rows", "more"].map(byId);
let chosen = rows, drawn = 0, at = -1;

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// ---- cards ----

function textOf(parts) {
  const node = make("div", "text");
  for (const [kind, text] of parts) {
    if (kind === "…") node.append(make("span", "cut", ` … ${text} … `));
    else if (tags[kind]) node.append(make(tags[kind], classes[kind] || "", text));
    else node.append(text);
  }
  if (!parts.some(([, text]) => text)) node.append(make("span", "cut", "(empty)"));
  return node;
}

function said(text, row) {
  const node = make("div", "said", make("span", "role", text.role), textOf(text.parts));
  if (row && text.field !== undefined) node.dataset.field = text.field;
  return node;
}

// Long texts are cut by their height, with what is marked in sight. Heights are known only once cards are in the page.
function shorten(node) {
  const text = node.querySelector(".text");
  if (node.hidden) return;
  node.classList.add("short");
  if (text.scrollHeight <= text.clientHeight + 40) {
    node.classList.remove("short");
    return;
  }
  const mark = text.querySelector("mark");
  if (mark) text.scrollTop = mark.offsetTop - text.offsetTop - 60;
  text.classList.add("cut-off");
  const button = make("button", "", "Show all");
  button.type = "button";
  button.addEventListener("click", () => {
    node.classList.remove("short");
    text.classList.remove("cut-off");
    button.remove();
  });
  node.append(button);
}

// Of a long conversation the beginning, the end, and what is marked.
function side(label, texts, row) {
  const nodes = texts.map((text) => said(text, row));
  const node = make("div", "side", make("p", "label", label), ...nodes);
  const between = nodes.filter((one, index) =>
    texts.length > 6 && index > 1 && index < texts.length - 2 && !one.querySelector("mark"));
  for (const one of between) one.hidden = true;
  if (between.length) {
    const button = make("button", "turns", `Show ${between.length} more texts`);
    button.type = "button";
    button.addEventListener("click", () => {
      for (const one of between) one.hidden = false;
      between.forEach(shorten);
      button.remove();
    });
    between[0].before(button);
  }
  return node;
}

function eventOf(event) {
  const score = event.score === undefined ? "" : ` · ${Number(event.score.toPrecision(3))}`;
  const node = make("li", event.out ? "out" : "", event.action === "edit" ? `edited: ${event.reason}` : event.reason);
  if (event.action === "flag") node.prepend("for review: ");
  node.append(make("small", "", ` · ${event.step}${event.field ? ` · ${event.field}` : ""}${score}`));
  if (event.other) node.append(make("small", "", " · see ", make("code", "", event.other)));
  if (event.detail) node.append(make("small", "", ` · ${event.detail}`));
  return node;
}

const STATES = { out: "taken out", unreadable: "unreadable", used: "used", train: "training", validation: "validation" };

function chip(state) {
  return make("span", state === "out" || state === "unreadable" ? "chip out" : "chip", STATES[state] || state);
}

function cardOf(row) {
  const acts = make("span", "acts");
  if (row.state !== "unreadable") {
    for (const [name, key] of [["keep", "a"], ["drop", "d"], ["edit", "e"]]) {
      const button = make("button", "", name[0].toUpperCase() + name.slice(1));
      button.type = "button";
      button.dataset.act = name;
      button.title = `${name} (${key})`;
      button.disabled = name === "edit" && !row.texts.some((text) => text.field !== undefined);
      acts.append(button);
    }
  }
  const place = make("span", "", row.where + (row.category ? ` · ${row.category}` : ""));
  const card = make("article", "card", make("header", "", chip(row.state), make("code", "", row.id), place, acts));
  card.dataset.id = row.id;
  card.append(make("ul", "events", ...row.events.map(eventOf)));
  const sides = make("div", "sides", side(row.other ? "This row" : "", row.texts, row));
  if (row.other) {
    sides.classList.add("two");
    const label = `Counterpart (${STATES[row.other.state] || row.other.state}) · ${row.other.where}`;
    sides.append(side(label, row.other.texts, null));
  }
  card.append(sides);
  for (const edit of row.edits || []) {
    const label = make("p", "label", `${edit.reason} · ${edit.step} · ${edit.field}`);
    card.append(make("div", "change", label, textOf(edit.parts)));
  }
  show(card);
  return card;
}

// ---- filters ----

function filter() {
  const words = search.value.trim();
  const group = groupList.value === "" ? -1 : Number(groupList.value);
  const category = categoryList.value;
  chosen = matching(rows, group, category, words);
  list.replaceChildren();
  drawn = 0;
  at = -1;
  const whole = group < 0 || category || words ? "" : ` of ${groups[group].rows.toLocaleString("en")}`;
  found.textContent = `${chosen.length.toLocaleString("en")}${whole} shown`;
  if (!chosen.length) list.append(make("p", "none", "No row in this page is like that."));
  draw();
}

function draw() {
  const until = drawn + (drawn ? STEP : FIRST);
  const cards = chosen.slice(drawn, until).map(cardOf);
  list.append(...cards);
  cards.flatMap((card) => [...card.querySelectorAll(".said")]).forEach(shorten);
  drawn = Math.min(until, chosen.length);
  more.hidden = drawn >= chosen.length;
  more.textContent = `Show more (${(chosen.length - drawn).toLocaleString("en")} left)`;
}

function option(value, text) {
  const node = make("option", "", text);
  node.value = value;
  return node;
}

function fillLists() {
  groupList.append(option("", `every step and reason (${rows.length.toLocaleString("en")})`));
  const steps = new Map();
  const order = groups.map((group, index) => ({ group, index }));
  order.sort((a, b) => a.group.name.localeCompare(b.group.name, "en", { numeric: true }));
  for (const { group, index } of order) {
    const name = group.step ? `${group.step}: ${group.what}` : "used, nothing decided";
    if (!steps.has(name)) {
      const node = make("optgroup");
      node.label = name;
      steps.set(name, node);
    }
    const number = group.shown < group.rows ? `${group.shown} of ${group.rows.toLocaleString("en")}` : `${group.rows}`;
    steps.get(name).append(option(String(index), `${group.reason || "a sample"} (${number})`));
  }
  groupList.append(...steps.values());
  categoryList.append(option("", "every category"));
  const names = [...new Set(rows.map((row) => row.category))].sort();
  categoryList.append(...names.map((name) => option(`=${name}`, name || "(none)")));
  categoryList.hidden = names.length < 2;
}

function follow() {
  const index = groups.findIndex((group) => `#${group.name}` === location.hash);
  if (index < 0) return;
  groupList.value = String(index);
  categoryList.value = search.value = "";
  filter();
  byId("review").scrollIntoView();
}

// ---- marks ----

function show(card) {
  const mark = marks.get(card.dataset.id) || newMark();
  for (const button of card.querySelectorAll("button[data-act]")) {
    const name = button.dataset.act;
    button.setAttribute("aria-pressed", String(name === "edit" ? mark.edits.size > 0 : mark.action === name));
  }
  card.classList.toggle("marked", Boolean(mark.action || mark.edits.size));
  for (const node of card.querySelectorAll("[data-field]")) {
    const edit = mark.edits.get(node.dataset.field);
    const box = node.querySelector("textarea");
    for (const other of node.querySelectorAll(".text, button")) other.hidden = Boolean(edit);
    if (!edit && box) box.remove();
    if (edit && !box) node.append(boxOf(card, node, edit));
  }
}

function boxOf(card, node, edit) {
  const box = make("textarea");
  box.value = edit.after;
  box.setAttribute("aria-label", `New text of ${node.dataset.field}`);
  // A textarea turns every line end into \n; a text that was not touched must not count as changed by that.
  const untouched = box.value;
  box.addEventListener("input", () => {
    edit.after = box.value === untouched ? edit.before : box.value;
    count();
  });
  return box;
}

function act(card, name) {
  const id = card.dataset.id;
  const row = rows.find((one) => one.id === id);
  const mark = (name !== "clear" && marks.get(id)) || newMark();
  marks.set(id, mark);
  if (name !== "clear") changeMark(mark, row, name);
  show(card);
  count();
  if (mark.edits.size) card.querySelectorAll("button.turns").forEach((button) => button.click());
  if (name === "edit") card.querySelector("textarea")?.focus();
}

function count() {
  const number = decisionsOf(marks).length;
  save.disabled = !number;
  save.textContent = number ? `Save ${number} decision${number === 1 ? "" : "s"}` : "Save decisions";
}

let saved = "";
function download() {
  const made = decisionsOf(marks);
  if (!made.length) return;
  const text = fileOf(head, made);
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = JSON.stringify(made);
}

// ---- events ----

function go(to) {
  if (to >= drawn && drawn < chosen.length) draw();
  const cards = list.querySelectorAll(".card");
  if (to < 0 || to >= cards.length) return;
  if (at >= 0) cards[at].classList.remove("at");
  at = to;
  cards[at].classList.add("at");
  cards[at].scrollIntoView({ block: "nearest" });
}

list.addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (!card) return;
  go([...list.children].indexOf(card));
  const button = event.target.closest("button[data-act]");
  if (button) act(card, button.dataset.act);
});
const keys = { d: "drop", a: "keep", e: "edit", x: "clear" };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const card = list.children[at];
  if (event.key === "j" || event.key === "k") go(Math.max(0, at + (event.key === "j" ? 1 : -1)));
  else if (event.key === "/") search.focus();
  else if (event.key === "s") download();
  else if (keys[event.key] && card?.classList.contains("card")) act(card, keys[event.key]);
  else return;
  event.preventDefault();
});
let waiting;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 150);
});
groupList.addEventListener("change", filter);
categoryList.addEventListener("change", filter);
more.addEventListener("click", draw);
save.addEventListener("click", download);
window.addEventListener("hashchange", follow);
window.addEventListener("beforeunload", (event) => {
  const made = decisionsOf(marks);
  if (made.length && JSON.stringify(made) !== saved) event.preventDefault();
});

fillLists();
bar.hidden = byId("keys").hidden = false;
filter();
follow();
