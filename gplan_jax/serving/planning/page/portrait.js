// Who the user is, in words. Places are named by their part in the user's life, codes by the server's
// labels; a code without words is only counted, and stands in the form.

import { element } from "./dom.js";

const LOCALITIES = { 本地: "in the home city", 异地行前: "before a trip", 异地行中: "on a trip", 未知地点: "" };
const RECENT = /^在(\d+)月(\d+)日[^\d点]*(\d+)点(.*)位于(本地|异地行前|异地行中|未知地点)(.*)的(\S+)$/;
const HABIT = /^(.*)的(p_[^_]+?)((?:act_\d+&?)+)了(\d+)次$/;
const SHOWN = 5;

const joined = (...parts) => parts.filter((part) => part).join(" · ");
const split = (text, by) => (text ?? "").split(by).map((part) => part.trim()).filter((part) => part);
const day = (month, date) =>
  new Date(Date.UTC(2000, month - 1, date)).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const dayOf = (time) => {
  const match = /^\d+-(\d+)-(\d+)/.exec(time ?? "");
  return match ? day(match[1], match[2]) : "";
};

export function portrait(context, labels) {
  const roles = Object.entries({
    home: context.profile_feat_6,
    work: context.profile_feat_8,
    "the order's place": context.trigger_4,
    "where the user is": context.current_poi_name,
  });
  const named = (place) => labels[place] ?? roles.find(([, id]) => id && id === place)?.[0];
  const done = (text) => (text.match(/act_\d+/g) ?? []).map((code) => labels[code]).filter((words) => words).join(", ");

  const order = joined(context.trigger_1, (context.trigger_2 ?? "") + (context.trigger_3 ?? ""), labels[context.trigger_4],
    [dayOf(context.trigger_6), dayOf(context.trigger_7)].filter((part) => part).join(" to "));

  const attributes = [1, 2, 3, 4, 10, 11, 12].flatMap((number) =>
    split(context[`profile_feat_${number}`], "|").map((value) => labels[`profile_feat_${number}:${value}`]));
  const likes = [13, 14].flatMap((number) => split(context[`profile_feat_${number}`], "|")).map((entry) => {
    const [code, level] = entry.split(":");
    return labels[code] && joined(labels[code], level);
  });
  const coded = [...attributes, ...likes].filter((words) => !words).length;
  const facts = {
    Order: order,
    Home: context.profile_feat_7 || context.profile_feat_5,
    Work: context.profile_feat_9,
    Traits: attributes.filter((words) => words).join(", "),
    Likes: likes.filter((words) => words).join(", "),
    Codes: coded && `${coded}, in the form below`,
  };

  const recent = split(context.short_term_behavior_seq, ", ").reverse().map((entry) => {
    const match = RECENT.exec(entry);
    if (!match) return [entry, ""];
    const [, month, date, hour, actions, locality, category, place] = match;
    return [joined(category, named(place)), joined(`${day(month, date)}, ${hour}:00`, LOCALITIES[locality], done(actions))];
  });
  const habits = split(context.long_term_behavior, ",").map((entry) => {
    const match = HABIT.exec(entry);
    if (!match) return [entry, ""];
    const [, category, place, actions, count] = match;
    return [joined(category, named(place)), joined(`${count} times`, done(actions))];
  });
  return [
    element("dl", { class: "facts" }, ...Object.entries(facts).filter(([, value]) => value).map(([title, value]) =>
      element("div", {}, element("dt", { text: title }), element("dd", { text: value })))),
    ...list("Lately", recent),
    ...list("Habits", habits),
  ];
}

function list(title, entries) {
  if (!entries.length) return [];
  const more = entries.length - SHOWN;
  const items = entries.slice(0, SHOWN).map(([what, how]) =>
    element("li", {}, element("span", { text: what }), " ", element("span", { class: "quiet", text: how })));
  return [
    element("h3", { text: title }),
    element("ul", { class: "entries" }, ...items, more > 0 ? element("li", { class: "quiet", text: `and ${more} more` }) : null),
  ];
}
