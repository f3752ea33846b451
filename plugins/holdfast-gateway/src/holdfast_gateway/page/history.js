// Reading a session's history backwards, of which the gateway is asked forwards.

import { api, client } from "./api.js";

const PAGE = 1000; // events asked for at once

/**
 * The events before a place.
 *
 * Numbers may be missing, and very many at once where a gateway ended without a word: so what is
 * sought is the last event before the place, and then about `count` numbers before it.
 * @param {number} from the last number that may be given
 * @param {number} first the first number that is kept
 * @returns {Promise<{after: number, events: object[]}>} all events behind `after`, up to `from`
 */
export async function readEarlier(id, from, first, count) {
  let after = Math.max(first - 1, from - count);
  let events = await range(id, after, from);
  if (events.length === 0 && after >= first) {
    const last = await lastBefore(id, after, first);
    after = Math.max(first - 1, last - count);
    events = await range(id, after, last);
  }
  return { after, events };
}

async function range(id, after, to) {
  const events = [];
  for (let cursor = after; cursor < to; ) {
    const page = await api.events(id, { after: cursor, limit: PAGE, client });
    events.push(...page.events.filter(({ seq }) => seq <= to));
    if (page.next_after <= cursor) break;
    cursor = page.next_after;
  }
  return events;
}

/** The number of the last event up to `to`, or one less than the first if there is none. */
async function lastBefore(id, to, first) {
  const next = async (after) => (await api.events(id, { after, limit: 1, client })).next_after;
  let none = to; // behind it there is none up to `to`
  let some = first - 1; // there is one, or this is the beginning
  for (let span = PAGE; none - span > some; span *= 4) {
    const found = await next(to - span);
    if (found > to - span && found <= to) {
      some = found;
      break;
    }
    none = to - span;
  }
  while (none - some > 1) {
    const middle = Math.floor((some + none) / 2);
    const found = await next(middle);
    if (found > middle && found <= to) some = found;
    else none = middle;
  }
  return none;
}
