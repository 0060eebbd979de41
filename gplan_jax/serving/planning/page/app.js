// The page: a context is edited, planned at two moments, and the two plans are shown side by side.

import { byId, element } from "./dom.js";

const GROUPS = {
  profile: "Profile",
  history: "History",
  "time and place": "Time and place",
  trigger: "Trigger",
};
const MOMENT = "time and place";
const SIDES = ["first", "second"];
const RETRY_MS = 2000;

const page = { columns: {}, examples: [], model: null, key: sessionStorage.getItem("key") ?? "" };

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

const columnsOf = (group) => Object.keys(page.columns).filter((name) => page.columns[name]["x-group"] === group);

function buildForm() {
  for (const [group, title] of Object.entries(GROUPS)) {
    const fields = element("div", { class: "fields" }, ...columnsOf(group).map((name) => field(name, "first")));
    const preview = element("span", { class: "quiet", "data-group": group });
    const summary = element("summary", {}, title, preview);
    byId("groups").append(element("details", {}, summary, fields));
  }
  byId("moment-fields").append(...columnsOf(MOMENT).map((name) => field(name, "second")));
  for (const [name, moment] of Object.entries(MOMENTS)) {
    const radio = element("input", { type: "radio", name: "moment", value: name, onchange: applyMoment });
    byId("moments").append(element("label", {}, radio, moment.title));
  }
  byId("moments").querySelector("input").checked = true;
  byId("moment-fields").addEventListener("input", () => {
    document.querySelector('input[name="moment"][value="own"]').checked = true;
  });
  byId("groups").addEventListener("input", () => {
    showPreviews();
    applyMoment();
  });
}

function fillExamples() {
  const options = page.examples.map((example, index) => element("option", { value: index, text: example.name }));
  byId("example").replaceChildren(...options);
  byId("example").addEventListener("change", () => fill(page.examples[byId("example").value].context));
  if (page.examples.length) fill(page.examples[0].context);
}

function fill(context) {
  for (const name of Object.keys(page.columns)) byId(`first-${name}`).value = context[name] ?? "";
  showPreviews();
  applyMoment();
}

/** What a closed group holds, beside its name. */
function showPreviews() {
  for (const preview of document.querySelectorAll("[data-group]")) {
    const values = columnsOf(preview.dataset.group).map((name) => byId(`first-${name}`).value);
    preview.textContent = values.filter((value) => value).join(" · ");
  }
}

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

function applyMoment() {
  const { change } = chosenMoment();
  byId("moment-details").open ||= change === null;
  if (change === null) return;
  const context = contextOf("first");
  const changed = change(context);
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

function card(intent, position, mark, side) {
  const { tool_key: key, tools } = page.model;
  const name = intent[key] ?? "";
  const words = { same: "", added: "added", removed: "left out", moved: "moved" };
  const badge = mark && words[mark] ? element("span", { class: "badge", text: words[mark] }) : null;
  const parameters = Object.entries(intent).filter(([parameter]) => parameter !== key);
  const list = parameters.map(([parameter, value]) =>
    element("div", {}, element("dt", { text: parameter }), element("dd", { text: value })));
  return element(
    "li",
    { class: `card ${badge ? mark : ""}`, "data-side": side },
    element("span", { class: "place", text: position }),
    element("span", { class: "meaning", text: tools[name]?.meaning || name || "no tool", title: name }),
    badge ?? element("span"),
    list.length ? element("dl", { class: "parameters" }, ...list) : null,
  );
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

function costs(answer) {
  const { usage, timings_ms: timings } = answer;
  const pair = (title, value) => element("div", {}, element("dt", { text: title }), element("dd", { text: value }));
  const parts = ["queue", "prefill", "decode"];
  const whole = parts.reduce((sum, part) => sum + timings[part], 0) || 1;
  const bar = element("div", { class: "bar", "aria-hidden": "true" }, ...parts.map((part) => {
    const span = element("span", { class: part });
    span.style.width = `${(100 * timings[part]) / whole}%`;
    return span;
  }));
  const legend = parts.map((part) => element("span", {}, element("i", { class: part }), `${part} ${figure(timings[part])} ms`));
  const cached = usage.cached_tokens ? `, ${usage.cached_tokens} of them cached` : "";
  return [
    element("dl", { class: "costs" },
      pair("milliseconds", figure(timings.total)),
      pair("passes", usage.passes),
      pair("tokens", usage.response_tokens),
      pair("drafts accepted", usage.drafted_tokens ? `${usage.accepted_tokens} of ${usage.drafted_tokens}` : "none")),
    bar,
    element("p", { class: "legend" }, ...legend),
    element("p", { class: "quiet", text: `Prompt of ${usage.prompt_tokens} tokens${cached}.` }),
    element("details", {}, element("summary", { text: "What the model wrote" }), element("pre", { text: answer.text })),
  ];
}

const momentOf = (context) =>
  [context.currenttime, context.current_city, context.current_district, context.current_tag].filter((part) => part).join(" · ");

function showPlan(side, answer, marks, context) {
  const cards = answer.plan.map((intent, index) => card(intent, index + 1, marks?.[index], side));
  const plan = cards.length
    ? element("ol", { class: "cards" }, ...cards)
    : element("p", { class: "problem", text: "The answer holds no plan." });
  byId(`plan-${side}`).querySelector(".body").replaceChildren(
    element("p", { class: "quiet when", text: momentOf(context) }), plan, ...verdicts(answer), ...costs(answer));
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
  const again = element("button", { type: "button", text: "Try again", onclick: plan });
  byId(`plan-${side}`).querySelector(".body").replaceChildren(
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

async function plan() {
  document.querySelectorAll('[aria-invalid="true"]').forEach(clearFault);
  const contexts = SIDES.map(contextOf);
  byId("submit").disabled = true;
  byId("progress").textContent = "Planning…";
  document.querySelectorAll(".plan .body").forEach((body) => body.setAttribute("data-waiting", ""));
  const outcomes = await Promise.allSettled(contexts.map((context) => ask("v1/plan", { context })));
  const answers = outcomes.map((outcome) => outcome.value);
  const marks = answers.every((answer) => answer) ? compare(answers[0].plan, answers[1].plan) : [];
  byId("plans").hidden = false;
  byId("title-second").textContent = chosenMoment().title;
  SIDES.forEach((side, index) => {
    byId(`plan-${side}`).querySelector(".body").removeAttribute("data-waiting");
    if (answers[index]) showPlan(side, answers[index], marks[index], contexts[index]);
    else showProblem(side, outcomes[index].reason);
  });
  const changed = marks.flat().filter((mark) => mark !== "same").length;
  byId("progress").textContent = marks.length ? (changed ? "The plans differ; see the marks." : "Both plans are the same.") : "";
  byId("submit").disabled = false;
  if (byId("plans").getBoundingClientRect().top > innerHeight * 0.6 && !document.querySelector('[aria-invalid="true"]'))
    byId("plans").scrollIntoView();
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
  byId("model").textContent = `${page.model.model}, ${page.model.mode}`;
  fillExamples();
  showState("starting", EXPLAINED.starting);
  await untilReady();
  byId("submit").disabled = false;
}

async function start() {
  const description = await ask("openapi.json");
  page.columns = description.components.schemas.Context.properties;
  buildForm();
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("submit").disabled) plan();
  });
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
