// Decisions on their way to the server: kept in this browser until the server says it has them.

const RETRY_MS = 2000;

/**
 * Sends the latest state of each row, one request at a time, again and again until it is taken.
 *
 * listener.onSaved(row, state), listener.onRefused(row, message), listener.onOutdated(row, saved),
 * listener.onState(state, text) are called as things happen.
 */
export class Outbox {
  constructor(name, listener) {
    this.name = name;
    this.listener = listener;
    this.waiting = new Map();
    this.held = new Set(); // rows that wait for their reviewer to settle a conflict
    this.busy = false;
    try {
      for (const [row, state] of JSON.parse(localStorage.getItem(name) ?? "[]")) this.waiting.set(row, state);
    } catch {
      localStorage.removeItem(name);
    }
  }

  put(row, state) {
    this.held.delete(row);
    this.waiting.set(row, state);
    this.#keep();
    this.flush();
  }

  drop(row) {
    this.held.delete(row);
    this.waiting.delete(row);
    this.#keep();
  }

  get size() {
    return this.waiting.size;
  }

  async flush() {
    if (this.busy) return;
    this.busy = true;
    try {
      for (;;) {
        const next = [...this.waiting].find(([row]) => !this.held.has(row));
        if (!next) break;
        this.listener.onState("starting", "saving…");
        if (!(await this.#send(...next))) {
          setTimeout(() => this.flush(), RETRY_MS);
          return;
        }
      }
      if (!this.size) this.listener.onState("ready", "all saved");
    } finally {
      this.busy = false;
    }
  }

  /** Whether the server has answered for good: taken, refused, or in conflict. */
  async #send(row, state) {
    let response;
    try {
      response = await fetch(`api/decisions/${row}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({
          version: state.version,
          plan: state.plan,
          reasoning: state.reasoning,
          verdict: state.verdict,
          comment: state.comment,
        }),
      });
    } catch {
      this.listener.onState("down", `${this.#count()} not saved yet: the server can't be reached. They are kept here and sent again.`);
      return false;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) {
      this.#done(row, state);
      // What was changed meanwhile was made on top of what is saved now.
      const newer = this.waiting.get(row);
      if (newer) {
        newer.version = answer.version;
        this.#keep();
      }
      this.listener.onSaved(row, answer);
      return true;
    }
    const error = answer.error ?? { message: `the server answered ${response.status}` };
    if (error.code === "outdated") {
      this.held.add(row);
      this.listener.onOutdated(row, error.state);
      return true;
    }
    if ([400, 404, 413, 422].includes(response.status)) {
      this.#done(row, state);
      this.listener.onRefused(row, error.message);
      return true;
    }
    this.listener.onState("down", `${this.#count()} not saved yet: ${error.message}`);
    return false;
  }

  #count() {
    return this.size === 1 ? "1 decision is" : `${this.size} decisions are`;
  }

  #done(row, state) {
    if (this.waiting.get(row) === state) this.waiting.delete(row);
    this.#keep();
  }

  #keep() {
    if (this.waiting.size) localStorage.setItem(this.name, JSON.stringify([...this.waiting]));
    else localStorage.removeItem(this.name);
  }
}
