// What the rooms share. Texts reach the page through textContent alone, so that no question or answer is ever markup.

// An element: make('p', {class: 'note', onclick: f}, 'text', child, null)
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, attributes);
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

// The same for SVG
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  fill(element, attributes);
  element.append(...children.flat(Infinity).filter(Boolean));
  return element;
}

function fill(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
}

// The JSON that the server answers. Throws an Error with the server's sentence, its status and its content. With `body` the request is a POST of JSON
export async function api(path, body, options = {}) {
  const sent = body === undefined ? {} : {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, {...sent, ...options});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('the server does not answer; is make lightbox still running?');
  }
  const content = await answer.json().catch(() => ({detail: `the server answered ${answer.status} ${answer.statusText}`}));
  if (!answer.ok) throw Object.assign(new Error(content.detail), {status: answer.status, content});
  return content;
}

// Address of an image by its name, or of its deep-zoom source
export const imageUrl = name => `/images/${escaped(name)}`;
export const zoomUrl = name => `/zoom/${escaped(name)}`;
const escaped = name => name.split('/').map(encodeURIComponent).join('/');

// Show the sentence of an error in an element
export function fault(element, error) {
  if (error.name === 'AbortError') return;
  element.replaceChildren(make('p', {class: 'fault', role: 'alert'}, error.message));
}

// What the address says after ?, as an object; and the reverse. `push`: the back button returns to what was shown before
export const address = () => Object.fromEntries(new URLSearchParams(location.search));
export function setAddress(values, push = false) {
  const kept = Object.entries(values).filter(([, value]) => value !== '' && value !== null && value !== undefined && value !== false);
  const query = new URLSearchParams(kept).toString();
  history[push ? 'pushState' : 'replaceState'](null, '', query ? `?${query}` : location.pathname);
}

// Keys of a page: keyboard({'j': ['next trajectory', f], ...}), with what ? shows of the key if that is not its name. A key without a
// meaning is not shown. They rest while a text is typed
export function keyboard(keys) {
  const explained = Object.entries(keys).filter(([, [meaning]]) => meaning);
  const list = explained.flatMap(([key, [meaning, , shown]]) => [make('dt', {}, make('kbd', {}, shown ?? key)), make('dd', {}, meaning)]);
  const close = make('button', {onclick: () => help.close()}, 'Close');
  const help = make('dialog', {'aria-label': 'Keys'}, make('h2', {}, 'Keys'), make('dl', {}, list), make('p', {}, close));
  document.body.append(help);
  document.querySelector('header .hint')?.append(make('button', {onclick: () => help.showModal()}, 'Keys ', make('kbd', {}, '?')));
  document.addEventListener('keydown', event => {
    const typing = event.target.closest('input, textarea, select, [contenteditable]') && event.key !== 'Escape';
    if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === '?') help.showModal();
    else if (keys[event.key]) keys[event.key][1](event);
    else return;
    event.preventDefault();
  });
}

// A deep-zoom viewer in an element: zoomable(element, tileSource). Throws an Error with what to do where OpenSeadragon is not installed
export function zoomable(element, tileSources, options = {}) {
  if (!globalThis.OpenSeadragon) throw new Error('the viewer of large images is not installed; run make env-lightbox, then load this page again');
  return new OpenSeadragon.Viewer({
    element, tileSources, showNavigationControl: false, crossOriginPolicy: false, maxZoomPixelRatio: 8, visibilityRatio: 0.5,
    gestureSettingsMouse: {clickToZoom: false, dblClickToZoom: true}, animationTime: matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 0.4,
    ...options,
  });
}
