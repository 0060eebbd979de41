// Shows openapi.json: the operations with an example to copy, then the bodies.

import { element } from "./dom.js";

const page = await (await fetch("openapi.json")).json();

const nameOf = (reference) => reference.split("/").at(-1);

/** A schema in a few words, with links to the bodies it refers to. */
function kind(schema) {
  if (schema.$ref) return [element("a", { href: `#${nameOf(schema.$ref)}`, text: nameOf(schema.$ref) })];
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.flatMap((part, index) => [index ? " or " : "", ...kind(part)]);
  if (schema.enum) return [schema.enum.join(" | ")];
  if (schema.type === "array") return ["list of ", ...kind(schema.items ?? {})];
  if (schema.additionalProperties?.type) return ["object of ", ...kind(schema.additionalProperties)];
  return [{ string: "text", integer: "whole number", boolean: "true or false" }[schema.type] ?? schema.type ?? "any"];
}

function bounds(schema) {
  const words = { minimum: "from", maximum: "to", minItems: "at least", maxItems: "at most", maxLength: "at most" };
  const parts = [schema, ...(schema.anyOf ?? [])].flatMap((part) =>
    Object.entries(words).filter(([key]) => part[key] !== undefined).map(([key, word]) => `${word} ${part[key]}`));
  return parts.length ? ` (${parts.join(" ")}${schema.maxLength ? " characters" : ""})` : "";
}

function table(headings, rows) {
  const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col", text: heading })));
  const lines = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, ...cell))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines)));
}

function curl(path, method, example) {
  if (method !== "post") return `curl ${location.origin}${path}`;
  const body = JSON.stringify(example).replaceAll("'", "'\\''");
  return `curl ${location.origin}${path} -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

for (const [path, operations] of Object.entries(page.paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const body = operation.requestBody?.content["application/json"];
    const responses = Object.entries(operation.responses).map(([status, response]) => {
      const content = response.content?.["application/json"]?.schema;
      return [[status], [response.description], content ? kind(content) : []];
    });
    const title = element("h2", {}, element("span", { class: "method", text: method.toUpperCase() }), element("code", { text: path }));
    const parts = [title, element("p", { text: operation.description ?? "" })];
    if (body) parts.push(element("p", {}, "Body: ", ...kind(body.schema)));
    const example = element("pre", { text: curl(path, method, body?.example) });
    document.getElementById("operations").append(
      element("section", { class: "panel operation" }, ...parts, example, table(["Status", "Meaning", "Body"], responses)));
  }
}

for (const [name, schema] of Object.entries(page.components.schemas)) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([key, value]) => [
    [element("code", { text: key }), required.has(key) ? " *" : ""],
    [...kind(value), bounds(value)],
    [value.description ?? ""],
  ]);
  document.getElementById("schemas").append(
    element("h2", { id: name, text: name }), element("p", { class: "quiet", text: schema.description ?? "" }),
    table(["Key", "Value", ""], rows));
}
