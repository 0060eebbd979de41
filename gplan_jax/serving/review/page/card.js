// One candidate: its facts, its plan and its reasoning, to read and to edit.

import { element, same } from "./dom.js";

const NEW_PARAMETER = "";

/** The facts; the first is a list of phrases, shown as chips. */
export function factsOf(facts) {
  const [[, phrases], ...others] = facts;
  const chips = phrases.split("，").map((phrase) => element("li", { text: phrase }));
  const list = others.map(([title, text]) => {
    const lines = text.split("；").map((line) => element("span", { class: "line", text: line }));
    return element("div", {}, element("dt", { text: title }), element("dd", {}, ...lines));
  });
  return [element("ul", { class: "chips" }, ...chips), element("dl", { class: "facts" }, ...list)];
}

/** "", "added" or "moved": what became of a step since it was proposed. */
function markOf(intent, index, proposal) {
  if (same(intent, proposal[index])) return "";
  return proposal.some((other) => same(intent, other)) ? "moved" : "added";
}

const WORDS = { added: "changed", moved: "moved" };

/** A view of a draft; `edit` has the functions that change it, null for reading. */
export function planOf(draft, proposal, library, blocks, faults, edit) {
  const faultsOf = (column, step) =>
    faults.filter((fault) => (step === null ? fault.column === column && fault.step === null : fault.step === step));
  const texts = blocks.map((name) =>
    blockOf(name, draft, proposal, faultsOf(name, null), library, edit));
  const cards = draft.plan.map((intent, index) =>
    stepOf(intent, index, draft, proposal, library, faultsOf("", index + 1), edit));
  const left = proposal.plan.filter((intent) => !draft.plan.some((other) => same(intent, other)));
  return [
    ...texts,
    element("ol", { class: "cards steps" }, ...cards),
    edit && draft.plan.length < library.maximum
      ? element("button", { type: "button", id: "add-step", onclick: edit.add }, "Add a step")
      : null,
    ...listOf(faultsOf("plan", null), library),
    ...listOf(faults.filter((fault) => fault.step > draft.plan.length), library),
    left.length
      ? element("p", { class: "quiet left-out" }, "Left out of the proposal: ",
        left.map((intent) => [meaning(intent, library), ...values(intent, library)].join(" ")).join("; "))
      : null,
  ].filter(Boolean);
}

/** A message with the tools' meanings for their names. */
const plainly = (message, library) =>
  message.replace(/[\p{L}\p{N}_]+/gu, (word) => (Object.hasOwn(library.tools, word) && library.tools[word].meaning) || word);
const listOf = (faults, library) =>
  faults.map((fault) => element("p", { class: "fault", text: plainly(fault.message, library) }));
const meaning = (intent, library) =>
  library.tools[intent[library.tool_key]]?.meaning || intent[library.tool_key] || "no tool";
const values = (intent, library) =>
  Object.entries(intent).filter(([key]) => key !== library.tool_key).map(([, value]) => value);

function textOf(name, title, draft, edit) {
  const text = draft.reasoning[name] ?? "";
  if (edit) {
    const id = `text-${name}`;
    const area = element("textarea", { id, rows: 2, maxlength: 2000, "aria-label": title, "data-block": name });
    area.value = text;
    area.addEventListener("input", () => edit.text(name, area.value));
    return area;
  }
  return element("p", { class: "why", text: text || "no text yet" });
}

function blockOf(name, draft, proposal, faults, library, edit) {
  const reworded = (draft.reasoning[name] ?? "") !== (proposal.reasoning[name] ?? "");
  return element("div", { class: "block" },
    element("h3", {}, name, reworded ? element("span", { class: "badge reworded", text: "reworded" }) : null),
    textOf(name, name, draft, edit), ...listOf(faults, library));
}

function stepOf(intent, index, draft, proposal, library, faults, edit) {
  const mark = markOf(intent, index, proposal.plan);
  const name = `STEP_${index + 1}`;
  const reworded = !mark && (draft.reasoning[name] ?? "") !== (proposal.reasoning[name] ?? "");
  const badge = mark || reworded
    ? element("span", { class: `badge ${reworded ? "reworded" : ""}`, text: WORDS[mark] ?? "reworded" })
    : element("span");
  const tool = edit
    ? toolChoice(intent, index, library, edit)
    : element("span", { class: "meaning", text: meaning(intent, library), title: intent[library.tool_key] });
  return element("li", { class: `card step ${mark} ${faults.length ? "broken" : ""}` },
    element("span", { class: "place", text: index + 1 }), tool, badge,
    parametersOf(intent, index, library, edit),
    textOf(name, `${name}: why this step`, draft, edit),
    ...listOf(faults, library),
    edit ? buttonsOf(index, draft.plan.length, edit) : null);
}

function option(value, words, chosen) {
  const node = element("option", { value, text: words });
  node.selected = value === chosen;
  return node;
}

/** A choice of admissible values; an inadmissible one stays visible until it is replaced. */
function choice(label, chosen, options, onChange, id) {
  const known = options.some(([value]) => value === chosen);
  const all = known ? options : [[chosen, chosen ? `${chosen} (not admissible)` : "choose…"], ...options];
  const select = element("select", { id, "aria-label": label, "aria-invalid": known ? null : "true" },
    ...all.map(([value, words]) => option(value, words, chosen)));
  select.addEventListener("change", () => onChange(select.value));
  return select;
}

function toolChoice(intent, index, library, edit) {
  const tools = Object.entries(library.tools).map(([name, tool]) => [name, tool.meaning || name]);
  const chosen = intent[library.tool_key] ?? "";
  return choice(`Tool of step ${index + 1}`, chosen, tools, (tool) => edit.tool(index, tool), `tool-${index + 1}`);
}

function parametersOf(intent, index, library, edit) {
  const tool = library.tools[intent[library.tool_key]];
  const given = Object.keys(intent).filter((key) => key !== library.tool_key);
  if (!edit) {
    if (!given.length) return null;
    return element("dl", { class: "parameters" }, ...given.map((key) =>
      element("div", {}, element("dt", { text: key }), element("dd", { text: intent[key] }))));
  }
  const keys = [...new Set([...(tool?.parameters ?? []), ...(tool?.optional ?? []), ...given])];
  if (!keys.length) return null;
  return element("div", { class: "choices-of-step" }, ...keys.map((key) => {
    const id = `value-${index + 1}-${key}`;
    const takes = tool?.parameters.includes(key) || tool?.optional.includes(key);
    const label = element("label", { for: id, text: takes ? key : `${key} (not taken by this tool)` });
    return element("div", {}, label, valueChoice(intent, index, key, tool, library, edit, id));
  }));
}

function valueChoice(intent, index, key, tool, library, edit, id) {
  const admissible = library.parameters[key]?.values;
  const chosen = intent[key] ?? NEW_PARAMETER;
  const change = (value) => edit.value(index, key, value);
  if (library.parameters[key] && !admissible) {
    const input = element("input", { id });
    input.value = chosen;
    input.addEventListener("input", () => edit.free(index, key, input.value));
    return input;
  }
  const required = tool?.parameters.includes(key);
  const options = Object.keys(admissible ?? {}).map((value) => [value, value]);
  if (!required) options.unshift([NEW_PARAMETER, "none"]);
  return choice(`${key} of step ${index + 1}`, chosen, options, change, id);
}

function buttonsOf(index, count, edit) {
  const button = (id, text, label, disabled, act) =>
    element("button", { type: "button", id: `${id}-${index + 1}`, "aria-label": label, title: label, disabled, onclick: act }, text);
  const number = index + 1;
  return element("div", { class: "step-buttons" },
    button("up", "↑", `Move step ${number} up`, index === 0, () => edit.move(index, -1)),
    button("down", "↓", `Move step ${number} down`, index === count - 1, () => edit.move(index, 1)),
    button("remove", "Remove", `Remove step ${number}`, false, () => edit.remove(index)));
}
