// The token that this tab was given, if the server asks for one. It is gone when the tab is closed.

const NAME = "clickstream-token";
const FORM = /^cst_[0-9a-f]{16}_[0-9a-f]{64}$/;
let own = null; // where the browser keeps nothing for pages

function kept() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

export const token = () => kept()?.getItem(NAME) ?? own;

/** Keep it, and tell whether it has the form of a token. */
export function keep(text) {
  if (!FORM.test(text)) return false;
  own = text;
  kept()?.setItem(NAME, text);
  return true;
}

export function forget() {
  own = null;
  kept()?.removeItem(NAME);
}
