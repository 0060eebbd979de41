// The page: a user's context is planned at two moments, side by side. Cards are kept or waved away, and
// the plan is made anew around them.

import { byId, element, same } from "./dom.js";
import { portrait } from "./portrait.js";

const GROUPS = {
  profile: "Profile",
  history: "History",
  "time and place": "Time and place",
  trigger: "Trigger",
};
const MOMENT = "time and place";
const SIDES = ["first", "second"];
const RETRY_MS = 2000;

const BEST = 3;

// `asked` holds each side's last request, `results` what came of it: {body, answer} or {body, problem}.
const page = { columns: {}, examples: [], model: null, asked: {}, results: {}, key: sessionStorage.getItem("key") ?? "" };

// ---- small helpers

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const figure = (ms) => (ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2));

/** JSON from the server; an error carries its status, code and column. */
async function ask(path, body) {
  const headers = page.key ? { Authorization: `Bearer ${page.key}` } : {};
  const options = body
    ? { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) }
    : { headers };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { code: "unreachable", message: "The server can't be reached." };
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const error = answer.error ?? { code: "unknown", message: `The server answered ${response.status}.` };
  throw { ...error, status: response.status, retryAfter: response.headers.get("Retry-After") };
}

// ---- the form

function field(name, prefix) {
  const column = page.columns[name];
  const id = `${prefix}-${name}`;
  const long = column["x-group"] === "history";
  const input = long ? element("textarea", { id, spellcheck: "false" }) : element("input", { id, spellcheck: "false" });
  input.addEventListener("input", () => clearFault(input));
  const label = element("label", { for: id, text: column.description, title: name });
  return element("div", { class: long ? "wide" : null }, label, input);
}

/** Columns play parts: what a service calls ``starts`` is ``trigger_6`` here, as in the public set. */
const fieldOf = (name) => page.columns[name]?.["x-field"] ?? name;
const byField = (context) => Object.fromEntries(Object.entries(context).map(([name, text]) => [fieldOf(name), text]));
const byColumn = (changes) =>
  Object.fromEntries(Object.keys(page.columns).filter((name) => fieldOf(name) in changes).map((name) => [name, changes[fieldOf(name)]]));

const columnsOf = (group) => Object.keys(page.columns).filter((name) => page.columns[name]["x-group"] === group);

function buildForm() {
  for (const [group, title] of Object.entries(GROUPS)) {
    const fields = element("div", { class: "fields" }, ...columnsOf(group).map((name) => field(name, "first")));
    byId("groups").append(element("fieldset", {}, element("legend", { text: title }), fields));
  }
  byId("moment-fields").append(...columnsOf(MOMENT).map((name) => field(name, "second")));
  for (const [name, moment] of Object.entries(MOMENTS)) {
    const radio = element("input", { type: "radio", name: "moment", value: name, onchange: chooseMoment });
    byId("moments").append(element("label", {}, radio, moment.title));
  }
  byId("moments").querySelector("input").checked = true;
  byId("moment-fields").addEventListener("input", () => {
    document.querySelector('input[name="moment"][value="own"]').checked = true;
  });
  byId("groups").addEventListener("input", () => {
    showPortrait();
    applyMoment();
  });
}

function fillExamples() {
  const options = page.examples.map((example, index) => element("option", { value: index, text: example.name }));
  byId("example").replaceChildren(...options);
  byId("example").addEventListener("change", () => {
    fill(page.examples[byId("example").value].context);
    planIfReady();
  });
  if (page.examples.length) fill(page.examples[0].context);
}

function fill(context) {
  for (const name of Object.keys(page.columns)) byId(`first-${name}`).value = context[name] ?? "";
  page.asked = {};
  showPortrait();
  applyMoment();
}

const showPortrait = () => byId("portrait").replaceChildren(...portrait(byField(contextOf("first")), page.model.labels));

function contextOf(side) {
  const context = {};
  for (const name of Object.keys(page.columns)) {
    const input = (side === "second" && byId(`second-${name}`)) || byId(`first-${name}`);
    if (input.value) context[name] = input.value;
  }
  return context;
}

// ---- other moments: what changes in time or place

const two = (number) => String(number).padStart(2, "0");

function shifted(context, hours) {
  const match = /^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)$/.exec(context.currenttime ?? "");
  if (!match) return {};
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number);
  const time = new Date(Date.UTC(year, month - 1, day, hour + hours, minute, second));
  const date = [time.getUTCFullYear(), two(time.getUTCMonth() + 1), two(time.getUTCDate())].join("-");
  const clock = [time.getUTCHours(), time.getUTCMinutes(), time.getUTCSeconds()].map(two).join(":");
  const weekend = [0, 6].includes(time.getUTCDay()) ? "1" : "0";
  return { currenttime: `${date} ${clock}`, weekendflag: weekend };
}

function habitual(place, area, category) {
  return (context) => {
    const city = context.profile_feat_5 ?? "";
    const where = context[area] ?? "";
    const district = where.startsWith(city) ? where.slice(city.length) : where;
    if (!context[place]) return {};
    return { current_poi_name: context[place], current_tag: category, current_city: city, current_district: district };
  };
}

const MOMENTS = {
  later: { title: "4 hours later", change: (context) => shifted(context, 4) },
  tomorrow: { title: "A day later", change: (context) => shifted(context, 24) },
  home: { title: "At home", change: habitual("profile_feat_6", "profile_feat_7", "住宅区") },
  work: { title: "At work", change: habitual("profile_feat_8", "profile_feat_9", "公司") },
  order: {
    title: "Where the order is",
    change: (context) =>
      context.trigger_4
        ? { current_poi_name: context.trigger_4, current_tag: "", current_city: context.trigger_2 ?? "", current_district: context.trigger_3 ?? "" }
        : {},
  },
  own: { title: "As I write it", change: null },
};

const chosenMoment = () => MOMENTS[document.querySelector('input[name="moment"]:checked').value];

function chooseMoment() {
  delete page.asked.second;
  applyMoment();
  planIfReady();
}

function applyMoment() {
  const { change } = chosenMoment();
  byId("moment-details").open ||= change === null;
  if (change === null) return;
  const context = contextOf("first");
  const changed = byColumn(change(byField(context)));
  for (const column of columnsOf(MOMENT)) {
    const input = byId(`second-${column}`);
    input.value = changed[column] ?? context[column] ?? "";
    clearFault(input);
  }
}

// ---- what changed between two plans

/** Marks of both plans: kept in order, moved, or only in one of them. */
export function compare(first, second) {
  const a = first.map((intent) => JSON.stringify(intent));
  const b = second.map((intent) => JSON.stringify(intent));
  const longest = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i][j] = a[i] === b[j] ? 1 + longest[i + 1][j + 1] : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const marks = [a.map(() => "removed"), b.map(() => "added")];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      marks[0][i++] = marks[1][j++] = "same";
    } else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  a.forEach((text, i) => {
    const j = b.findIndex((other, index) => other === text && marks[1][index] === "added");
    if (marks[0][i] === "removed" && j >= 0) marks[0][i] = marks[1][j] = "moved";
  });
  return marks;
}

// ---- the plans

const titleOf = (intent) => page.model.tools[intent[page.model.tool_key]]?.meaning || intent[page.model.tool_key] || "no tool";
const parametersOf = (intent) => Object.entries(intent).filter(([name]) => name !== page.model.tool_key);
const holds = (intents, intent) => intents.some((other) => same(other, intent));
const without = (intents, intent) => intents.filter((other) => !same(other, intent));

/** Why the step is there: the model's words, "latent" where it thinks in latent tokens, null where nothing is known. */
export function reasonOf(text, step) {
  const words = new RegExp(`<STEP_${step}>(.*?)</STEP_${step}>`, "s").exec(text);
  return words ? words[1].trim() : text.includes(`<T_${step}_`) ? "latent" : null;
}

function card(side, intent, index, mark) {
  const { answer } = page.results[side];
  const words = { added: "added", removed: "left out", moved: "moved" };
  const reason = reasonOf(answer.text, index + 1);
  const list = parametersOf(intent).map(([parameter, value]) =>
    element("div", {}, element("dt", { text: parameter }), element("dd", { text: value })));
  return element(
    "li",
    { class: `card ${words[mark] ? mark : ""}` },
    element("span", { class: "place", text: index + 1 }),
    element("div", {},
      element("span", { class: "meaning", text: titleOf(intent), title: intent[page.model.tool_key] }),
      words[mark] ? element("span", { class: "badge", text: words[mark] }) : null),
    ...choices(side, intent),
    list.length ? element("dl", { class: "parameters" }, ...list) : null,
    reason && element("p", { class: "quiet reason", text: `Why: ${reason}`,
      title: reason === "latent" ? "The model thinks in latent tokens, which have no words." : null }),
  );
}

/** The buttons of a card. Without the grammar there is no feedback, nor for what is no tool. */
function choices(side, intent) {
  if (!page.model.tools[intent[page.model.tool_key]] || page.model.mode === "unconstrained") return [];
  const { accepted, dismissed } = page.results[side].body;
  const kept = holds(accepted, intent);
  const choice = (text, label, pressed, change) => element("button", {
    type: "button", class: "choice", text, title: label, "aria-label": `${label}: ${titleOf(intent)}`, "aria-pressed": pressed,
    "data-key": label + JSON.stringify(intent),
    onclick: () => send({ [side]: { ...page.results[side].body, ...change } }),
  });
  const rest = without(accepted, intent);
  return [element("span", { class: "choices" },
    choice("✓", "Keep", String(kept), { accepted: kept ? rest : [...accepted, intent] }),
    choice("✕", "Wave away", null, { accepted: rest, dismissed: [...dismissed, intent] }))];
}

function wavedAway(side) {
  const { dismissed } = page.results[side].body;
  if (!dismissed.length) return null;
  const back = (intent) => element("button", {
    type: "button", text: `${brief(intent)} ↺`, "aria-label": `Let it return: ${titleOf(intent)}`,
    onclick: () => send({ [side]: { ...page.results[side].body, dismissed: without(dismissed, intent) } }),
  });
  return element("p", { class: "away" }, element("span", { class: "quiet", text: "Waved away" }), ...dismissed.map(back));
}

function verdicts(answer) {
  const items = [];
  const item = (good, text) => items.push(element("li", { class: good ? "yes" : "no", text }));
  if (answer.latent_valid !== null) item(answer.latent_valid, answer.latent_valid ? "✓ latent prefix valid" : "✗ latent prefix not valid");
  const broken = answer.violations.length;
  item(answer.passed, answer.passed ? "✓ passes the rules" : `✗ breaks ${broken} ${broken === 1 ? "rule" : "rules"}`);
  const list = element("ul", { class: "verdicts" }, ...items);
  if (!broken) return [list];
  const lines = answer.violations.map((violation) => element("li", { text: violation.message }));
  return [list, element("ul", { class: "violations" }, ...lines)];
}

/** Figures and a strip of time: waiting, the prefill, and each pass after it. */
function costs(answer) {
  const { usage, timings_ms: timings } = answer;
  const pair = (title, value) => element("div", {}, element("dt", { text: title }), element("dd", { text: value }));
  const passes = Math.max(1, usage.passes - 1);
  const whole = timings.queue + timings.prefill + timings.decode || 1;
  const segments = [["queue", timings.queue], ["prefill", timings.prefill], ...Array(passes).fill(["decode", timings.decode / passes])];
  const bar = element("div", { class: "bar", "aria-hidden": "true" }, ...segments.map(([part, ms]) => {
    const span = element("span", { class: part });
    span.style.width = `${(100 * ms) / whole}%`;
    return span;
  }));
  const legend = ["queue", "prefill", "decode"].map((part) =>
    element("span", {}, element("i", { class: part }), `${part} ${figure(timings[part])} ms`));
  const cached = usage.cached_tokens ? `, ${usage.cached_tokens} of them cached` : "";
  return [
    element("dl", { class: "costs" },
      pair("milliseconds", figure(timings.total)),
      pair("passes", usage.passes),
      pair("tokens", usage.response_tokens),
      pair("drafts accepted", usage.drafted_tokens ? `${usage.accepted_tokens} of ${usage.drafted_tokens}` : "none")),
    bar,
    element("p", { class: "legend" }, ...legend, `prompt of ${usage.prompt_tokens} tokens${cached}`),
    element("details", {}, element("summary", { text: "What the model wrote" }), element("pre", { text: answer.text })),
  ];
}

/** Time and place in a line; what differs from the other moment is marked. */
function moment(context, other) {
  [context, other] = [byField(context), other && byField(other)];
  return ["currenttime", "current_city", "current_district", "current_tag"].filter((name) => context[name]).flatMap((name, index) => [
    index ? " · " : null, other && other[name] !== context[name] ? element("mark", { text: context[name] }) : context[name]]);
}

function showPlan(side, marks) {
  const { body, answer, refused } = page.results[side];
  const cards = answer.plan.map((intent, index) => card(side, intent, index, marks?.[index]));
  replace(side,
    element("p", { class: "quiet when" }, ...moment(body.context, side === "second" && page.results.first.body.context)),
    refused && element("p", { class: "problem", role: "alert", text: `The plan stays as it was: ${refused}` }),
    cards.length ? element("ol", { class: "cards" }, ...cards) : element("p", { class: "problem", text: "The answer holds no plan." }),
    wavedAway(side), ...verdicts(answer), ...costs(answer));
}

/** Puts new parts into a plan; a card that had the focus keeps it, or the first card gets it. */
function replace(side, ...parts) {
  const body = byId(`plan-${side}`).querySelector(".body");
  const focused = body.contains(document.activeElement) && (document.activeElement.dataset.key ?? "none");
  body.replaceChildren(...parts.filter((part) => part));
  const buttons = [...body.querySelectorAll("[data-key]")];
  if (focused) (buttons.find((button) => button.dataset.key === focused) ?? buttons[0])?.focus();
}

// ---- other likely plans

const percent = (share) => (share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`);
const brief = (intent) => {
  const values = parametersOf(intent).map(([, value]) => value).join(", ");
  return values ? `${titleOf(intent)} (${values})` : titleOf(intent);
};

/** Fetches them where they are wanted; what is in them but not in the plan above is marked. */
async function showOthers(side) {
  const details = byId(`plan-${side}`).querySelector(".others");
  const [, body] = details.children;
  const result = page.results[side];
  details.hidden = !result?.answer || page.model.mode === "unconstrained";
  body.replaceChildren();
  if (!details.open || details.hidden) return;
  body.textContent = "Searching…";
  const parts = await ask("v1/plan", { ...result.body, best: BEST }).then(({ best }) => [
    element("ol", { class: "best" }, ...best.plans.map(({ plan, log_probability: log }) => element("li", {},
      element("strong", { text: percent(Math.exp(log)) }),
      element("span", {}, ...plan.flatMap((intent, index) => [
        index ? " → " : null, element(holds(result.answer.plan, intent) ? "span" : "mark", { text: brief(intent) })]),
        same(plan, result.answer.plan) ? element("span", { class: "quiet", text: " (the one above)" }) : null)))),
    element("p", { class: "quiet", text: `${result.body.accepted.length ? "Next" : "First"}: ${best.first_intents.slice(0, BEST)
      .map(({ intent, probability }) => `${brief(intent)} ${percent(probability)}`).join(", ")}.` }),
    best.exact ? null : element("p", { class: "quiet", text: "The search ended early: another plan may be likelier." }),
  ], (problem) => [element("p", { class: "problem", text: EXPLAINED[problem.code] ?? problem.message })]);
  if (result === page.results[side]) body.replaceChildren(...parts.filter((part) => part));
}

// ---- errors, kindly

const EXPLAINED = {
  overloaded: "The server is busy just now.",
  starting: "The model is still being loaded.",
  draining: "The server is about to stop.",
  failed: "The planning engine has failed. Whoever runs the server has to restart it.",
  deadline: "The plan was not ready in time. The server may be busy; another try often works.",
  unauthorized: "This server wants an API key.",
  unreachable: "The server can't be reached. Is it still running?",
  too_large: "This context is too long for the server.",
};

function showProblem(side, problem) {
  const known = EXPLAINED[problem.code];
  const wait = problem.retryAfter ? ` It asks to wait ${problem.retryAfter} s.` : "";
  const again = element("button", { type: "button", text: "Try again", onclick: () => send(page.asked) });
  replace(side,
    element("div", { class: "problem", role: "alert" },
      element("p", { text: (known ?? problem.message ?? "Something in this page has failed.") + wait }),
      problem.status === 422 ? null : again));
  if (problem.column) markFault(side, problem);
  if (problem.code === "unauthorized") askForKey();
}

function markFault(side, problem) {
  const input = (side === "second" && byId(`second-${problem.column}`)) || byId(`first-${problem.column}`);
  if (!input || input.getAttribute("aria-invalid")) return;
  const id = `${input.id}-fault`;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", id);
  input.after(element("p", { id, class: "fault", text: problem.message }));
  input.closest("details").open = true;
  input.focus();
}

function clearFault(input) {
  input.removeAttribute("aria-invalid");
  input.removeAttribute("aria-describedby");
  byId(`${input.id}-fault`)?.remove();
}

function askForKey() {
  byId("key-section").hidden = false;
  byId("key").focus();
}

// ---- what happens when

/** Plans at both moments; what was kept and waved away holds on until another user or moment is chosen. */
function plan() {
  document.querySelectorAll('[aria-invalid="true"]').forEach(clearFault);
  return send(Object.fromEntries(SIDES.map((side) =>
    [side, { accepted: [], dismissed: [], ...page.asked[side], context: contextOf(side) }])));
}

const planIfReady = () => byId("submit").disabled || plan();

/** Asks for the sides' bodies and shows what comes; answers that a later request has overtaken are dropped. */
async function send(bodies) {
  Object.assign(page.asked, bodies);
  byId("plans").setAttribute("aria-busy", "true");
  byId("progress").textContent = "Planning…";
  await Promise.all(Object.entries(bodies).map(async ([side, body]) => {
    const before = page.results[side];
    const result = await ask("v1/plan", body).then((answer) => ({ body, answer }), (problem) => ({ body, problem }));
    if (page.asked[side] !== body) return;
    page.results[side] = result;
    if (/^(accepted|dismissed)/.test(result.problem?.column)) {
      page.results[side] = { ...before, refused: result.problem.message };
      page.asked[side] = before.body;
    }
  }));
  if (SIDES.every((side) => page.results[side]?.body === page.asked[side])) show(Object.keys(bodies));
}

function show(changed) {
  byId("plans").hidden = false;
  byId("plans").setAttribute("aria-busy", "false");
  byId("title-second").textContent = chosenMoment().title;
  const answers = SIDES.map((side) => page.results[side].answer);
  const marks = answers.every((answer) => answer) ? compare(answers[0].plan, answers[1].plan) : [];
  SIDES.forEach((side, index) => (answers[index] ? showPlan(side, marks[index]) : showProblem(side, page.results[side].problem)));
  changed.forEach(showOthers);
  const differ = marks.flat().some((mark) => mark !== "same");
  byId("progress").textContent = marks.length ? (differ ? "The plans differ; see the marks." : "Both plans are the same.") : "";
}

function showState(state, text) {
  byId("state").dataset.state = state;
  byId("state").textContent = text;
}

async function untilReady() {
  for (;;) {
    try {
      await ask("readyz");
      showState("ready", "ready");
      return;
    } catch (problem) {
      showState(problem.code === "starting" ? "starting" : "down", EXPLAINED[problem.code] ?? problem.message);
    }
    await pause(RETRY_MS);
  }
}

async function load() {
  try {
    const [model, examples] = await Promise.all([ask("v1/model"), ask("v1/examples")]);
    page.model = model;
    page.examples = examples.examples;
  } catch (problem) {
    showState("down", EXPLAINED[problem.code] ?? problem.message);
    if (problem.code === "unauthorized") askForKey();
    return;
  }
  byId("key-section").hidden = true;
  byId("hint").hidden = page.model.mode === "unconstrained";
  byId("model").textContent = `${page.model.model}, ${page.model.mode}`;
  fillExamples();
  showState("starting", EXPLAINED.starting);
  await untilReady();
  byId("submit").disabled = false;
  if (page.examples.length) plan();
}

async function start() {
  const description = await ask("openapi.json");
  page.columns = description.components.schemas.Context.properties;
  buildForm();
  byId("portrait-details").open = matchMedia("(min-width: 64rem)").matches;
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await planIfReady();
    if (byId("plans").getBoundingClientRect().top > innerHeight * 0.6 && !document.querySelector('[aria-invalid="true"]'))
      byId("plans").scrollIntoView();
  });
  for (const side of SIDES) byId(`plan-${side}`).querySelector(".others").addEventListener("toggle", () => showOthers(side));
  const useKey = () => {
    page.key = byId("key").value;
    sessionStorage.setItem("key", page.key);
    load();
  };
  byId("use-key").addEventListener("click", useKey);
  byId("key").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      useKey();
    }
  });
  await load();
}

start().catch((problem) => showState("down", EXPLAINED[problem.code] ?? "This page could not be set up."));
