// The few helpers the page needs instead of a framework. Text only: nothing is parsed as HTML.

export const byId = (id) => document.getElementById(id);

export function setText(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, { className, text, attributes } = {}, children = []) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Keeps one child per key under `parent`, made by `create` and filled by `update`.
export function keyed(parent, items, keyOf, create, update) {
  const existing = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  for (const item of items) {
    const key = keyOf(item);
    let child = existing.get(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
      parent.append(child);
    }
    existing.delete(key);
    update(child, item);
  }
  for (const gone of existing.values()) gone.remove();
}
