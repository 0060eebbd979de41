// The review page: one candidate at a time, decided by keys, saved at once.

import { factsOf, planOf } from "./card.js";
import { byId, copy, element, same } from "./dom.js";
import { Outbox } from "./outbox.js";

const DRAFT_PAUSE_MS = 500;
const RETRY_MS = 2000;
const DONE = { accept: "accepted", edit: "edited", reject: "rejected" };
const PLACES = {
  here: "at the order's place",
  district: "order in the same district",
  city: "order in another district",
  elsewhere: "order in another city",
  unknown: "order's place unknown",
};
const KEYS_OFF = "gplan-review-keys-off";

const page = { review: null, at: 0, editing: false, history: [], conflicts: new Map(), outbox: null, timer: null };

const candidates = () => page.review.candidates;
const here = () => candidates()[page.at];
const rowOf = (row) => candidates()[row - 1];
const changed = (candidate) =>
  !same(candidate.state.plan, candidate.proposal.plan) || !sameTexts(candidate.state.reasoning, candidate.proposal.reasoning);
const oneLine = (text) => (text ?? "").replace(/\s*[\r\n]\s*/g, " ").trim(); // As the file keeps it.
const sameTexts = (a, b) => [...new Set([...Object.keys(a), ...Object.keys(b)])].every((name) => oneLine(a[name]) === oneLine(b[name]));
const say = (text) => (byId("said").textContent = text);
const stepName = (index) => `STEP_${index + 1}`;

// ---- which candidates are shown

const SHOWN = {
  all: () => true,
  undecided: (candidate) => !candidate.state.verdict,
  faulty: (candidate) => candidate.state.faults.length > 0,
};
const shown = (candidate) => {
  const filter = byId("filter").value;
  return SHOWN[filter] ? SHOWN[filter](candidate) : candidate.state.verdict === filter;
};

/** The place of the nearest shown candidate in a direction, -1 where there is none. */
function neighbour(step, wanted = shown) {
  for (let at = page.at + step; at >= 0 && at < candidates().length; at += step) if (wanted(candidates()[at])) return at;
  return -1;
}

function go(at, { editing = false } = {}) {
  saveDraft();
  page.at = at;
  page.editing = editing;
  show();
  history.replaceState(null, "", `#${here().row}`);
  scrollTo(0, 0);
  byId("title").focus({ preventScroll: true });
}

function move(step) {
  const at = neighbour(step);
  if (at < 0) return say(step > 0 ? "This is the last one shown." : "This is the first one shown.");
  go(at);
  say(`Row ${here().row}.`);
}

/** On to the next one that is left to do; the last one stays. */
function onward(said) {
  const undecided = (candidate) => shown(candidate) && !candidate.state.verdict;
  const filtered = byId("filter").value;
  const wanted = filtered === "all" || filtered === "undecided" ? undecided : shown;
  let at = neighbour(1, wanted);
  if (at < 0) at = candidates().findIndex(wanted);
  if (at < 0) {
    page.editing = false;
    show();
    return say(`${said} All that is shown is decided.`);
  }
  go(at);
  say(`${said} Row ${here().row}.`);
}

// ---- what is on the screen

function show() {
  const candidate = here();
  const { state, proposal } = candidate;
  const [trigger, place] = candidate.stratum;
  byId("title").textContent = `${trigger || "no order"} · ${PLACES[place] ?? place}`;
  byId("origin").textContent = `User ${candidate.id}; plan of ${candidate.origin}`;
  byId("facts").replaceChildren(...factsOf(candidate.facts));
  byId("comment").value = state.comment;
  byId("row").value = candidate.row;
  byId("of").textContent = `of ${candidates().length.toLocaleString("en")}`;
  byId("edit-buttons").hidden = !page.editing;
  byId("edit").setAttribute("aria-pressed", page.editing);
  byId("restore").disabled = !changed(candidate);
  byId("plan").replaceChildren(
    ...planOf(state, proposal, page.review.library, page.review.blocks, state.faults, page.editing ? edits : null));
  showVerdict();
  showProgress();
  showConflict();
}

function showVerdict() {
  const { state } = here();
  const count = state.verdict ? 0 : state.faults.length;
  const faults = count ? `${count} ${count === 1 ? "fault" : "faults"}` : "undecided";
  byId("verdict").textContent = DONE[state.verdict] ?? (changed(here()) ? `changed, ${faults}` : faults);
  byId("verdict").dataset.verdict = count ? "faulty" : state.verdict;
  byId("undo").disabled = !page.history.length;
  const words = changed(here()) ? "Save edit " : "Accept ";
  byId("accept").replaceChildren(words, element("kbd", { text: "a" }));
}

function showProgress() {
  const counts = { accept: 0, edit: 0, reject: 0, "": 0 };
  for (const { state } of candidates()) counts[state.verdict] += 1;
  const all = candidates().length;
  const figure = (count) => count.toLocaleString("en");
  byId("counts").textContent = `${figure(all - counts[""])} of ${figure(all)} decided: ${counts.accept} accepted, ${counts.edit} edited, ${counts.reject} rejected`;
  for (const [verdict, name] of Object.entries(DONE))
    document.querySelector(`.progress .${name}`).style.width = `${(100 * counts[verdict]) / all}%`;
}

function showConflict() {
  const saved = page.conflicts.get(here().row);
  byId("problem").replaceChildren(...(saved
    ? [element("div", { class: "problem", role: "alert" },
        element("p", { text: `Row ${here().row} was changed elsewhere: it is ${DONE[saved.verdict] ?? "undecided"} there.` }),
        element("button", { type: "button", id: "keep-mine", onclick: () => settle(true) }, "Keep what is here"), " ",
        element("button", { type: "button", id: "take-theirs", onclick: () => settle(false) }, "Take what was saved"))]
    : []));
}

/** Draws the plan anew and puts the focus back where it was. */
function redraw(focus = document.activeElement?.id) {
  show();
  if (focus) byId(focus)?.focus();
}

// ---- changes of the draft

function change(act, focus) {
  const { state } = here();
  act(state);
  state.verdict = "";
  here().unchecked = true;
  saveSoon();
  redraw(focus);
}

/** The steps' texts go with their intents: `order` holds old places, -1 for a new step. */
function reorder(state, order, plan) {
  const texts = order.map((old) => (old < 0 ? "" : state.reasoning[stepName(old)] ?? ""));
  for (const name of Object.keys(state.reasoning)) if (name.startsWith("STEP_")) delete state.reasoning[name];
  texts.forEach((text, index) => {
    if (text) state.reasoning[stepName(index)] = text;
  });
  state.plan = plan;
}

function inOrder(intent) {
  const { tool_key: key, parameters } = page.review.library;
  const keys = [key, ...Object.keys(parameters)];
  const known = keys.filter((name) => name in intent);
  return Object.fromEntries([...known, ...Object.keys(intent).filter((name) => !keys.includes(name))].map((name) => [name, intent[name]]));
}

function setValue(state, index, name, value) {
  const intent = { ...state.plan[index], [name]: value };
  if (!value) delete intent[name];
  state.plan[index] = inOrder(intent);
}

/** A field was written in: it stays as it is, and with it the caret. */
function touched() {
  here().state.verdict = "";
  here().unchecked = true;
  saveSoon();
  showVerdict();
  byId("restore").disabled = !changed(here());
}

const edits = {
  tool(index, tool) {
    const { tool_key: key, tools, parameters } = page.review.library;
    change((state) => {
      const old = state.plan[index];
      const intent = { [key]: tool };
      // What both tools take is kept; the rest begins with the first admissible value.
      for (const name of tools[tool].parameters)
        intent[name] = old[name] ?? Object.keys(parameters[name].values ?? { "": "" })[0];
      state.plan[index] = inOrder(intent);
    }, `tool-${index + 1}`);
  },
  value(index, name, value) {
    change((state) => setValue(state, index, name, value));
  },
  free(index, name, value) {
    setValue(here().state, index, name, value);
    touched();
  },
  text(name, text) {
    const { state } = here();
    state.reasoning[name] = text;
    if (!text) delete state.reasoning[name];
    touched();
  },
  move(index, step) {
    const to = index + step;
    change((state) => {
      const order = state.plan.map((_, place) => place);
      [order[index], order[to]] = [order[to], order[index]];
      reorder(state, order, order.map((old) => state.plan[old]));
    }, null);
    const button = byId(`${step < 0 ? "up" : "down"}-${to + 1}`);
    (button.disabled ? byId(`${step < 0 ? "down" : "up"}-${to + 1}`) : button).focus();
    say(`Now step ${to + 1}.`);
  },
  remove(index) {
    change((state) => {
      const order = state.plan.map((_, place) => place).filter((place) => place !== index);
      reorder(state, order, order.map((old) => state.plan[old]));
    }, null);
    (byId(`tool-${Math.min(index + 1, here().state.plan.length)}`) ?? byId("add-step")).focus();
    say(`Step ${index + 1} removed.`);
  },
  add() {
    const { tool_key: key, tools } = page.review.library;
    const used = here().state.plan.map((intent) => intent[key]);
    const simple = Object.keys(tools).filter((name) => !tools[name].parameters.length);
    const tool = simple.find((name) => !used.includes(name)) ?? simple[0] ?? Object.keys(tools)[0];
    change((state) => {
      state.plan.push({ [key]: tool });
    }, null);
    edits.tool(here().state.plan.length - 1, tool);
  },
};

function restore() {
  const { proposal } = here();
  change((state) => {
    state.plan = copy(proposal.plan);
    state.reasoning = copy(proposal.reasoning);
  }, "title");
  say("The proposal is back.");
}

// ---- saving

function send(candidate) {
  if (page.conflicts.has(candidate.row)) return;
  page.outbox.put(candidate.row, copy(candidate.state));
}

function saveSoon() {
  clearTimeout(page.timer);
  page.timer = setTimeout(saveDraft, DRAFT_PAUSE_MS);
  listener.onState("starting", "saving…");
}

function saveDraft() {
  if (page.timer === null) return;
  clearTimeout(page.timer);
  page.timer = null;
  send(here());
}

const listener = {
  onState(state, text) {
    byId("state").dataset.state = state;
    if (byId("state").textContent !== text) byId("state").textContent = text;
  },
  onSaved(row, saved) {
    const candidate = rowOf(row);
    candidate.state.version = saved.version;
    if (page.outbox.waiting.has(row) || (candidate === here() && page.timer !== null)) return;
    candidate.unchecked = false;
    const faults = candidate.state.faults;
    candidate.state.faults = saved.faults;
    if (candidate === here() && !same(faults, saved.faults)) showFaults();
  },
  onRefused(row, message) {
    const candidate = rowOf(row);
    candidate.state.verdict = "";
    send(candidate); // The draft at least is kept.
    showProgress();
    if (candidate === here()) showVerdict();
    const back = () => {
      byId("problem").replaceChildren();
      go(row - 1, { editing: true });
    };
    byId("problem").replaceChildren(element("div", { class: "problem", role: "alert" },
      element("p", { text: `Row ${row} was not taken: ${message}.` }),
      candidate === here() ? null : element("button", { type: "button", onclick: back }, `Back to row ${row}`)));
  },
  onOutdated(row, saved) {
    page.conflicts.set(row, saved);
    listener.onState("down", `Row ${row} needs you: it was changed elsewhere.`);
    if (here().row === row) showConflict();
    else go(row - 1);
  },
};

/** New faults under their steps; a text that is being written keeps its caret. */
function showFaults() {
  const field = document.activeElement;
  const block = field?.dataset?.block;
  const [start, end] = block ? [field.selectionStart, field.selectionEnd] : [];
  redraw();
  if (block) byId(`text-${block}`)?.setSelectionRange(start, end);
  const { faults } = here().state;
  say(faults.length ? `${faults.length} ${faults.length === 1 ? "fault" : "faults"}: ${faults[0].message}` : "No faults.");
}

function settle(mine) {
  const candidate = here();
  const saved = page.conflicts.get(candidate.row);
  page.conflicts.delete(candidate.row);
  if (mine) {
    candidate.state.version = saved.version;
    send(candidate);
  } else {
    candidate.state = saved;
    page.outbox.drop(candidate.row);
    page.outbox.flush();
  }
  page.editing = false;
  show();
  byId("title").focus();
}

// ---- decisions

function decide(verdict) {
  const candidate = here();
  saveDraft();
  if (page.conflicts.has(candidate.row)) return say("Settle the conflict first.");
  const isChanged = changed(candidate);
  if (verdict === "accept" && isChanged) verdict = "edit";
  if (verdict === "edit" && !isChanged) {
    page.editing = false;
    redraw("title");
    return say("Nothing was changed; accept it, or change what is wrong.");
  }
  if (verdict !== "reject" && blocked(candidate)) return;
  page.history.push({ row: candidate.row, state: copy(candidate.state) });
  candidate.state.comment = byId("comment").value.trim();
  candidate.state.verdict = verdict;
  send(candidate);
  onward(`Row ${candidate.row} ${DONE[verdict]}.`);
}

/**
 * Known faults keep a candidate from being accepted; the first is shown. What was changed a moment
 * ago the server has yet to check: it refuses the verdict where there is need.
 */
function blocked(candidate) {
  const faults = candidate.unchecked ? [] : candidate.state.faults;
  const missing = candidate.state.plan.map((_, index) => stepName(index)).concat(page.review.blocks)
    .find((name) => !(candidate.state.reasoning[name] ?? "").trim());
  if (!faults.length && !missing) return false;
  if (candidate.unchecked) send(candidate);
  page.editing = true;
  show();
  const fault = faults[0];
  const target = fault?.step ? `tool-${fault.step}` : missing ? `text-${missing}` : "title";
  byId(target)?.focus();
  say(`Not taken: ${fault?.message ?? `${missing} is empty; say why`}. Mend it, or reject the candidate.`);
  return true;
}

function undo() {
  const last = page.history.pop();
  if (!last) return say("There is nothing to undo.");
  const candidate = rowOf(last.row);
  candidate.state = { ...last.state, version: candidate.state.version };
  send(candidate);
  if (!shown(candidate)) byId("filter").value = "all";
  go(last.row - 1, { editing: changed(candidate) && !candidate.state.verdict });
  say(`Row ${last.row} is ${DONE[candidate.state.verdict] ?? "undecided"} again.`);
}

function toggleEdit() {
  if (page.editing) return changed(here()) ? decide("edit") : leaveEditing();
  page.editing = true;
  show();
  byId("tool-1")?.focus();
  say("Editing.");
}

function leaveEditing() {
  saveDraft();
  page.editing = false;
  redraw("title");
  say(changed(here()) ? "Your changes are kept; e or a saves them as edited." : "Nothing was changed.");
}

function comment() {
  here().state.comment = byId("comment").value;
  saveSoon();
}

function goToRow() {
  const row = Number(byId("row").value);
  if (row === here().row) return;
  if (Number.isInteger(row) && row >= 1 && row <= candidates().length) {
    if (!shown(rowOf(row))) byId("filter").value = "all";
    go(row - 1);
  } else {
    byId("row").value = here().row;
    say(`Rows go from 1 to ${candidates().length}.`);
  }
}

function filter() {
  if (shown(here())) return show();
  const forward = neighbour(1);
  const at = forward >= 0 ? forward : neighbour(-1);
  if (at >= 0) return go(at);
  say("There are none.");
  listener.onState(byId("state").dataset.state, "none to show; all candidates are shown");
  byId("filter").value = "all";
}

function nextUndecided() {
  const at = neighbour(1, SHOWN.undecided);
  const found = at >= 0 ? at : candidates().findIndex(SHOWN.undecided);
  if (found < 0) return say("All are decided.");
  if (!shown(candidates()[found])) byId("filter").value = "all";
  go(found);
}

// ---- keys and buttons

const focusOn = (id) => () => {
  byId(id).focus();
  byId(id).select?.();
};
const ACTS = {
  a: () => decide("accept"),
  e: toggleEdit,
  r: () => decide("reject"),
  u: undo,
  j: () => move(1),
  k: () => move(-1),
  n: nextUndecided,
  g: focusOn("row"),
  c: focusOn("comment"),
  f: focusOn("filter"),
  "?": () => byId("help").showModal(),
};

function onKey(event) {
  if (byId("help").open) return;
  const field = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape") {
    event.preventDefault();
    if (field) byId("title").focus();
    else if (page.editing) leaveEditing();
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    decide(changed(here()) ? "edit" : "accept");
  } else if (!field && !event.ctrlKey && !event.metaKey && !event.altKey && byId("keys-on").checked) {
    const act = ACTS[event.key];
    if (!act || event.repeat && "aeru".includes(event.key)) return;
    event.preventDefault();
    act();
  }
}

function listen() {
  document.addEventListener("keydown", onKey);
  const buttons = { accept: ACTS.a, edit: ACTS.e, reject: ACTS.r, undo, previous: ACTS.k, next: ACTS.j, restore, "help-open": ACTS["?"] };
  for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener("click", act);
  byId("comment").addEventListener("input", comment);
  byId("filter").addEventListener("change", filter);
  byId("row").addEventListener("change", goToRow);
  byId("row").addEventListener("keydown", (event) => {
    if (event.key === "Enter") goToRow();
  });
  byId("keys-on").checked = localStorage.getItem(KEYS_OFF) === null;
  byId("keys-on").addEventListener("change", () => {
    if (byId("keys-on").checked) localStorage.removeItem(KEYS_OFF);
    else localStorage.setItem(KEYS_OFF, "1");
  });
  addEventListener("pagehide", saveDraft); // What is not sent by then is kept in the browser.
}

async function load() {
  for (;;) {
    try {
      const response = await fetch("api/review");
      const answer = await response.json();
      if (response.ok) return answer;
      listener.onState("down", answer.error.message);
    } catch {
      listener.onState("down", "The server can't be reached. Is it still running?");
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function start() {
  page.review = await load();
  byId("who").textContent = `${page.review.reviewer}, ${page.review.file}`;
  document.title = `${page.review.reviewer} · GPlan seeds`;
  page.outbox = new Outbox(`gplan-review:${page.review.file}:${page.review.id}`, listener);
  for (const [row, state] of page.outbox.waiting) rowOf(row).state = { ...rowOf(row).state, ...copy(state) };
  const asked = Number(location.hash.slice(1));
  const first = candidates().findIndex(SHOWN.undecided);
  page.at = Number.isInteger(asked) && rowOf(asked) ? asked - 1 : Math.max(first, 0);
  listen();
  listener.onState("ready", "all saved");
  page.outbox.flush();
  byId("review").hidden = byId("actions").hidden = false;
  show();
}

start().catch((error) => {
  listener.onState("down", "This page could not be set up.");
  console.error(error);
});
