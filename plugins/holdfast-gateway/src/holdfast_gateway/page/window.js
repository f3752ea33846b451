// A long list of which only a window is in the document.

const MOST = 400; // items in the document
const STEP = 120; // items that come and go at once
const EDGE = 600; // px before an end of the window at which it is moved
const NEAR = 48; // px from the end that still count as being at the end

/**
 * Shows `items` in `scroller`; follows their end as long as the reader is there.
 *
 * `view(item)` gives `{node, update()}`. Whoever changes `items` calls `sync`, `dropped` or
 * `replaced`. `onmove()` hears that the window was moved. The keys Home and End go to both ends.
 */
export class WindowedList {
  constructor(scroller, list, view, onmove) {
    this._scroller = scroller;
    this._list = list;
    this._view = view;
    this._onmove = onmove;
    this._views = new Map();
    this.items = [];
    this._start = 0;
    this._end = 0;
    this._count = 0; // how many there were at the last `sync`
    this.following = true;
    scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    scroller.addEventListener("keydown", (event) => this._key(event));
    new ResizeObserver(() => this.shown()).observe(scroller);
  }

  /** Show other items, from their end. */
  replaced(items) {
    this.items = items;
    this._list.replaceChildren();
    this._views.clear();
    this._end = items.length;
    this._start = Math.max(0, this._end - (MOST - STEP));
    this.following = true;
    this.sync();
  }

  /** Items that came before were added, or all were made anew; the place in sight stays. */
  rebuilt(items, find) {
    const anchor = this.following ? null : this._anchor();
    const at = anchor ? find(anchor.item) : -1;
    if (!anchor || at < 0) return this.replaced(items);
    this.items = items;
    this._list.replaceChildren();
    this._views.clear();
    this._start = Math.max(0, at - STEP);
    this._end = Math.min(items.length, this._start + MOST);
    this._count = items.length;
    this.following = false;
    this._fill();
    const node = this._views.get(items[at])?.node;
    if (node) this._scroller.scrollTop += node.getBoundingClientRect().top - anchor.top;
    this._tell();
    return undefined;
  }

  /** `n` items were taken from the front of `items`. */
  dropped(n) {
    const gone = Math.min(Math.max(n - this._start, 0), this._end - this._start);
    const keep = this.following ? null : this._anchor();
    for (let i = 0; i < gone; i += 1) this._remove(this._list.firstElementChild);
    this._start = Math.max(0, this._start - n);
    this._end = Math.max(this._start, this._end - n);
    this._count = Math.max(0, this._count - n);
    this._restore(keep);
  }

  /** Show what was added to the end of `items`, and what changed among them. */
  sync(changed = []) {
    this._count = this.items.length;
    for (const item of changed) this._views.get(item)?.update();
    if (this.following) {
      this._end = this.items.length;
      if (this._end - this._start > MOST) this._start = this._end - (MOST - STEP);
      this._fill();
      this.toEnd();
      this._tell();
    } else {
      this._end = Math.max(this._end, Math.min(this.items.length, this._start + MOST));
      this._fill();
      this._tell();
    }
  }

  /** Go to the last item, and follow. */
  follow() {
    this.following = true;
    this._end = this.items.length;
    this._start = Math.max(0, this._end - (MOST - STEP));
    this._fill();
    this.toEnd();
    this._tell();
  }

  toEnd() {
    this._scroller.scrollTop = this._scroller.scrollHeight;
  }

  /** Go to one item; it need not be in the document yet. */
  show(index) {
    this.following = false;
    this._start = Math.max(0, Math.min(index - STEP, this.items.length - MOST));
    this._end = Math.min(this.items.length, this._start + MOST);
    this._fill();
    const node = this._views.get(this.items[index])?.node;
    node?.scrollIntoView({ block: "center" });
    this._tell();
    return node;
  }

  /** Whether the window begins with the first item. */
  get atStart() {
    return this._start === 0;
  }

  /** How many items lie behind the window. */
  get behind() {
    return this.items.length - this._end;
  }

  _key(event) {
    if (event.target !== this._scroller) return;
    if (event.key === "End") this.follow();
    else if (event.key === "Home") this._toStart();
    else return;
    event.preventDefault();
  }

  _toStart() {
    this.following = false;
    this._start = 0;
    this._end = Math.min(this.items.length, MOST);
    this._fill();
    this._scroller.scrollTop = 0;
    this._tell();
  }

  /** The list was hidden, and is seen again. */
  shown() {
    if (this.following) this.toEnd();
  }

  _scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this._scroller;
    if (clientHeight === 0) return; // hidden
    const below = scrollHeight - scrollTop - clientHeight;
    // Items that were added since the last `sync` are nothing that the reader has left behind.
    this.following = this._end >= this._count && below < NEAR;
    if (!this.following && scrollTop < EDGE && this._start > 0) {
      this._move(Math.max(0, this._start - STEP), this._end);
    } else if (!this.following && below < EDGE && this._end < this.items.length) {
      this._move(this._start, Math.min(this.items.length, this._end + STEP), true);
    }
    this._tell();
  }

  _move(start, end, down = false) {
    const anchor = this._anchor();
    if (end - start > MOST) {
      if (down) start = end - MOST;
      else end = start + MOST;
    }
    this._start = start;
    this._end = end;
    this._fill();
    this._restore(anchor);
  }

  /** The first item in sight, and where it stands. */
  _anchor() {
    const top = this._scroller.getBoundingClientRect().top;
    for (const node of this._list.children) {
      const box = node.getBoundingClientRect();
      if (box.bottom > top && box.height > 0) return { node, item: node.item, top: box.top };
    }
    return null;
  }

  _restore(anchor) {
    if (!anchor?.node.isConnected) return;
    this._scroller.scrollTop += anchor.node.getBoundingClientRect().top - anchor.top;
  }

  /** Make the document hold the items from `_start` to `_end`, and no others. */
  _fill() {
    const wanted = this.items.slice(this._start, this._end);
    const keep = new Set(wanted);
    for (const [item, { node }] of this._views) if (!keep.has(item)) this._remove(node);
    let next = this._list.firstElementChild;
    let fragment = null;
    for (const item of wanted) {
      const known = this._views.get(item);
      if (known) {
        if (fragment) this._list.insertBefore(fragment, next);
        fragment = null;
        next = known.node.nextElementSibling;
        continue;
      }
      const view = this._view(item);
      view.node.item = item;
      this._views.set(item, view);
      fragment ??= document.createDocumentFragment();
      fragment.append(view.node);
    }
    if (fragment) this._list.insertBefore(fragment, next);
  }

  _remove(node) {
    this._views.delete(node.item);
    node.remove();
  }

  _tell() {
    this._onmove();
  }
}
