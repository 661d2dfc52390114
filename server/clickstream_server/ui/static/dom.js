// Elements from data. All data becomes text nodes or attributes, never HTML.

/** An element; `null`, `undefined` and `false` among the children stand for nothing. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Change the text only if it is another: what is selected or focused stays so. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show what stands at this address of the page, anew if it is shown already: the browser itself does nothing then. */
export function visit(hash) {
  if (location.hash === hash) dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = hash;
}
