// The text view: warm where the token in question looks, a grey line under those that look at it.
// Tokens are only ever set as textContent, so that they cannot become markup.

const WARM = "234,118,20";
const GREY = "128,136,148";

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".tokens");
  const words = parentElement.querySelector(".words");
  const says = parentElement.querySelector(".says");
  const n = data.tokens.length;
  const whole = data.whole ? Uint8Array.from(atob(data.whole), (c) => c.charCodeAt(0)) : null;

  words.replaceChildren(
    ...data.tokens.map((token, position) => {
      const span = document.createElement("span");
      span.textContent = token.replace(/\n/g, "↵\n") || "∅";
      span.dataset.position = String(position);
      return span;
    })
  );
  const spans = words.children;

  const looks = (query, key) => {
    if (whole) return whole[query * n + key] / 255;
    return query === data.token ? data.looks_at[key] : null;
  };
  const seen = (query, key) => {
    if (whole) return whole[query * n + key] / 255;
    return key === data.token ? data.seen_by[query] : null;
  };

  const paint = (token) => {
    for (let position = 0; position < n; position++) {
      const out = looks(token, position) || 0;
      const back = (position > token && seen(position, token)) || 0;
      const style = spans[position].style;
      style.background = out >= 0.005 ? `rgba(${WARM},${0.62 * out})` : "";
      style.borderBottom = back >= 0.005 ? `3px solid rgba(${GREY},${Math.min(1, back)})` : "";
      spans[position].classList.toggle("chosen", position === token);
      spans[position].title =
        `${position}: looked at ${(out * data.unit).toFixed(3)}` +
        (position > token ? `, looks back ${(back * data.unit).toFixed(3)}` : "");
    }
    const top = [...Array(n).keys()]
      .map((key) => [key, looks(token, key) || 0])
      .sort((a, b) => b[1] - a[1])
      .slice(0, 4)
      .filter(([, weight]) => weight >= 0.01)
      .map(([key, weight]) => `${key} “${data.tokens[key].trim()}” ${(weight * data.unit).toFixed(2)}`);
    says.textContent = `${token} “${data.tokens[token].trim()}” looks at ${top.join(", ") || "nothing in particular"}`;
  };

  const at = (event) => {
    const span = event.target.closest("span[data-position]");
    return span ? Number(span.dataset.position) : null;
  };
  words.onmouseover = (event) => {
    const position = at(event);
    if (position !== null && whole && !data.chosen) paint(position);
  };
  words.onmouseleave = () => paint(data.token);
  words.onclick = (event) => {
    const position = at(event);
    if (position === null) return;
    // A second click on the chosen token lets it go; -1 says so, because null would be no event.
    setTriggerValue("picked", data.chosen && position === data.token ? -1 : position);
  };
  root.classList.toggle("frozen", Boolean(data.chosen));
  paint(data.token);
}
