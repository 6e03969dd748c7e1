import {address, api, draw, fault, keyboard, make, setAddress, zoomable} from '/web/common.js';
import {area, grown, moved, placed, resized, withBox} from '/web/nesting.js';

const API = '/api/annotate';
const TAB = sessionStorage.getItem('focus-annotate') ?? `${Math.random()}`;  // a reload is the same tab
sessionStorage.setItem('focus-annotate', TAB);
const IDLE_S = 30;  // a longer pause is no work on the question
const CLICK_PX = 4;  // a shorter drag draws nothing
const NUDGE_PX = 2;  // of the screen: zoom in for finer steps
const RETRY_MS = 3000;  // until a server that did not answer is asked again
const HANDLE_PX = matchMedia('(pointer: coarse)').matches ? 18 : 9;
const byId = name => document.getElementById(name);
const svg = draw('svg', {'aria-hidden': true});

let about, viewer, shown = null;  // shown: the question as the server gave it
let chains = [[]], at = {target: 0, level: null};  // what is drawn; what is chosen
let past = [], future = [], offers = [];  // for undo; chains that are suggested and not taken yet
let version = 0, state = 'open', saving = null, unsaved = false, theirs = null;  // theirs: the state that ours conflicts with
let drag = null, space = false, moving = false, seconds = 0, since = 0;

// ------------------------------------------------------------------------------------------------------------ saving

const drawnChains = () => chains.filter(chain => chain.length);
const kept = () => `focus-annotate ${about.records} ${shown.id}`;

// Save after a change. One request at a time: what changes meanwhile is saved next. Until the server has it, this browser keeps it
async function save(wanted = state) {
  state = wanted;
  unsaved = true;
  localStorage.setItem(kept(), JSON.stringify({version, state, chains: drawnChains()}));
  if (theirs) return false;
  saving ??= send();
  return saving;
}

async function send() {
  try {
    while (unsaved && !theirs) {
      unsaved = false;
      try {
        const sent = {version, state, chains: drawnChains(), annotator: byId('annotator').value, seconds: spent()};
        const answer = await api(`${API}/questions/${shown.index}`, sent, {method: 'PUT'});
        version = answer.drawing.version;
        showProgress(answer.progress);
        if (!unsaved) {
          localStorage.removeItem(kept());
          say(`saved, version ${version}`);
        }
      } catch (error) {
        unsaved = true;
        if (error.status === 409) conflict(error.content);
        else say(`not saved: ${error.message}; this browser keeps your boxes until they are`, true);
        if (!error.status) setTimeout(() => unsaved && save(), RETRY_MS);
        return false;
      }
    }
    return !theirs;
  } finally {
    saving = null;
  }
}

function conflict({detail, newest}) {
  theirs = newest;
  byId('conflict').replaceChildren(
    make('p', {}, detail),
    make('p', {class: 'chips'},
      make('button', {id: 'mine', onclick: () => settle(false)}, 'Keep mine'), make('button', {id: 'theirs', onclick: () => settle(true)}, 'Take theirs')),
  );
  byId('conflict').hidden = false;
  show();
}

function settle(takeTheirs) {
  const newest = theirs;
  theirs = null;
  version = newest.version;
  byId('conflict').hidden = true;
  if (takeTheirs) {
    remember();
    [state, chains, unsaved] = [newest.state, newest.chains.length ? newest.chains : [[]], false];
    choose(0);
    localStorage.removeItem(kept());
    say('their boxes are here; undo brings yours back');
  } else save();
}

// --------------------------------------------------------------------------------------------------------- questions

async function open(index) {
  await saving;
  if (unsaved && !theirs && !await save()) return;
  const question = await api(`${API}/questions/${index}?tab=${TAB}`);
  [past, future, theirs, drag, unsaved] = [[], [], null, null, false];
  byId('conflict').hidden = true;
  const other = shown?.index !== question.index;
  shown = question;
  ({version, state} = question.drawing);
  chains = question.drawing.chains.length ? question.drawing.chains : [[]];
  offers = question.suggested.filter(chain => !drawnChains().some(own => same(own, chain))).map(chain => ({from: 'the file', chain}));
  at = {target: 0, level: null};
  [seconds, since] = [question.drawing.seconds, performance.now()];
  setAddress({at: question.index + 1}, other);
  if (other) say(question.others ? 'another tab works on this question, too' : '');
  showQuestion();
  if (other) showImage();
  const local = JSON.parse(localStorage.getItem(kept()) ?? 'null');
  if (local && same(local.chains, question.drawing.chains) && local.state === state) localStorage.removeItem(kept());
  else if (local) {
    chains = local.chains.length ? local.chains : [[]];
    state = local.state;
    if (local.version === version) {
      say('boxes that were not saved yet are back');
      save();
    } else conflict({detail: 'this question was saved elsewhere while boxes of yours were not saved; keep yours, or take theirs', newest: question.drawing});
  }
  show();
}

// Show what another tab saved meanwhile
async function refresh() {
  const {drawing, index} = await api(`${API}/questions/${shown.index}?tab=${TAB}`);
  if (index === shown.index && drawing.version > version && !unsaved && !saving && !theirs) await open(index);
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const go = index => index >= 0 && index < about.progress.total && open(index).catch(failed);

async function finish(wanted) {
  if (moving) return;  // a second press, before the next question is here
  if (wanted === 'done' && !drawnChains().length) return say('draw a box first, or skip the question', true);
  if (wanted === 'done' && shown.problem) return say('the image can\'t be shown; skip the question', true);
  moving = true;
  try {
    if (await save(wanted)) await nextOpen();
  } finally {
    moving = false;
  }
}

async function nextOpen() {
  const {index} = await api(`${API}/next?after=${shown.index}&tab=${TAB}`);
  if (index === null) {
    show();
    say('every question is done or skipped');
  } else await open(index);
}

function showQuestion() {
  byId('asked').querySelector('.number').textContent = `question ${shown.index + 1} of ${about.progress.total} · ${shown.size.join(' x ')} px`;
  byId('asked').querySelector('.question').textContent = shown.question;
  byId('asked').querySelector('.options').replaceChildren(...shown.options.map(([key, text]) => make('li', {}, make('b', {}, key), text)));
  byId('asked').querySelector('.answers').textContent = `Answer: ${shown.answers.join(' or ')}`;
}

function showImage() {
  byId('trouble').replaceChildren();
  delete byId('viewer').dataset.open;
  viewer?.close();
  if (shown.problem) return fault(byId('trouble'), new Error(shown.problem));
  viewer?.open(shown.zoom);
}

function showProgress(progress) {
  about.progress = progress;
  const {open: left, done, skipped, total, seconds: each} = progress;
  byId('progress').querySelector('progress').value = total ? (done + skipped) / total : 0;
  const minutes = each && Math.ceil(left * each / 60);
  const rest = each && left ? ` · ${Math.round(each)} s a question, about ${minutes < 60 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`} left` : '';
  byId('progress').querySelector('p').textContent = `${done} of ${total} done${skipped ? `, ${skipped} skipped` : ''}${rest}`;
}

// Seconds of work on this question: time between two actions, without long pauses
function spent() {
  const now = performance.now(), pause = (now - since) / 1000;
  if (pause < IDLE_S) seconds += pause;
  since = now;
  return seconds;
}

// ----------------------------------------------------------------------------------------------------------- changes

function remember() {
  past.push(structuredClone(chains));
  future = [];
}

function change(target, chain, level) {
  remember();
  chains[target] = chain;
  at = {target, level: chain.length ? Math.min(level, chain.length - 1) : null};
  show();
  save('open');
}

function put(level, box, instead) {
  const chain = withBox(chains[at.target], level, box, instead);
  if (chain) change(at.target, chain, level);
  else {
    say('a box must differ from the one in it and the one around it; it was not drawn', true);
    show();
  }
}

function undo(from, to) {
  if (!from.length) return say('nothing to undo here');
  to.push(structuredClone(chains));
  chains = from.pop();
  choose(Math.min(at.target, chains.length - 1));
  save('open');
}

function choose(target, level = null) {
  at = {target, level: chains[target]?.length > level ? level : null};
  show();
}

function nextTarget() {
  if (at.target + 1 < chains.length) return choose(at.target + 1);
  if (!chains[at.target].length) return choose(0);
  chains.push([]);
  choose(chains.length - 1);
  say('a new target: draw its boxes');
}

function remove() {
  const {target, level} = at;
  if (level === null) return say('choose a box first: click it, or press [ or ]');
  change(target, chains[target].filter((_, index) => index !== level), level);
}

function accept(offer = offers[0]) {
  if (!offer) return say('nothing is suggested');
  offers = offers.filter(each => each !== offer);
  const target = chains[at.target].length ? chains.push([]) - 1 : at.target;
  change(target, offer.chain, 0);
}

async function askPolicy() {
  say('the policy looks ...');
  const question = shown;
  const {chains: found, answer, status} = await api(`${API}/questions/${shown.index}/crops`, {});
  if (shown !== question) return;
  offers = [...found.map(chain => ({from: 'the policy', chain})), ...offers.filter(offer => offer.from !== 'the policy')];
  say(`the policy ${found.length ? '' : 'made no crop and '}answers: ${answer ?? status}`);
  show();
}

function next(out) {
  const chain = chains[at.target];
  if (at.level === null) return chain.length ? choose(at.target, out ? chain.length - 1 : 0) : say('there is no box yet: drag one, or press b');
  choose(at.target, Math.max(0, Math.min(chain.length - 1, at.level + (out ? 1 : -1))));
}

function boxInTheMiddle() {
  if (!item()) return say('the image is not shown', true);
  const [x1, y1, x2, y2] = inView(), corner = [x1 + (x2 - x1) / 4, y1 + (y2 - y1) / 4];
  const {level, box} = placed(chains[at.target], corner, [x2 - (x2 - x1) / 4, y2 - (y2 - y1) / 4], shown.size);
  put(level, box, false);
}

function outward() {
  if (!chains[at.target].length) return boxInTheMiddle();
  const box = grown(chains[at.target], shown.size);
  if (box) put(chains[at.target].length, box, false);
  else say('the outermost box is the whole image already');
}

function arrow(event) {
  const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const {target, level} = at;
  if (level === null) return viewer?.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new OpenSeadragon.Point(dx * 80, dy * 80)));
  const step = Math.max(1, Math.round(NUDGE_PX * pxPerPixel())), box = chains[target][level];
  const changed = event.shiftKey
    ? resized(chains[target], level, [dx ? 'right' : '', dy ? 'bottom' : ''], [box[2] + dx * step, box[3] + dy * step], shown.size)
    : moved(chains[target], level, [dx * step, dy * step], shown.size);
  if (!same(changed, box)) put(level, changed, true);
}

// ---------------------------------------------------------------------------------------------------------- the image

const item = () => viewer?.world.getItemAt(0);
const toImage = point => (p => [p.x, p.y])(item().viewerElementToImageCoordinates(point));
const toViewer = (x, y) => item().imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
const pxPerPixel = () => item() ? toImage(new OpenSeadragon.Point(1, 0))[0] - toImage(new OpenSeadragon.Point(0, 0))[0] : 1;

// The part of the image that is seen
function inView() {
  const {clientWidth, clientHeight} = viewer.container;
  const [x1, y1] = toImage(new OpenSeadragon.Point(0, 0)), [x2, y2] = toImage(new OpenSeadragon.Point(clientWidth, clientHeight));
  return [Math.max(0, x1), Math.max(0, y1), Math.min(shown.size[0], x2), Math.min(shown.size[1], y2)];
}

function zoomTo([x1, y1, x2, y2]) {
  const more = 0.4 * Math.max(x2 - x1, y2 - y1);
  viewer.viewport.fitBounds(item().imageToViewportRectangle(x1 - more, y1 - more, x2 - x1 + 2 * more, y2 - y1 + 2 * more));
}

function show() {
  paint();
  const rows = byId('targets'), focused = [...rows.querySelectorAll('button')].indexOf(document.activeElement);
  rows.replaceChildren(...chains.map(targetRow));
  if (focused >= 0) rows.querySelectorAll('button')[focused]?.focus();
  byId('suggested').replaceChildren(...suggestions());
}

function paint() {
  svg.replaceChildren();
  if (item()) {
    for (const {chain} of offers) chain.forEach(box => svg.append(shape(box, 'offer')));
    for (const chain of theirs?.chains ?? []) chain.forEach(box => svg.append(shape(box, 'theirs')));
    chains.forEach((chain, target) => [...chain.entries()].reverse().forEach(([level, box]) => {
      const chosen = target === at.target && level === at.level;
      svg.append(shape(box, chosen ? 'chosen' : target === at.target ? 'here' : 'other', chains.length > 1 ? `${target + 1}·B${level + 1}` : `B${level + 1}`));
      if (chosen) handles(box).forEach(([, point]) => svg.append(draw('rect', {class: 'handle', x: point.x - 4, y: point.y - 4, width: 8, height: 8})));
    }));
    if (drag?.box) svg.append(shape(drag.box, 'new', `B${drag.level + 1}`));
  }
}

function shape(box, kind, name = '') {
  const from = toViewer(box[0], box[1]), to = toViewer(box[2], box[3]);
  const place = {x: from.x, y: from.y, width: Math.max(1, to.x - from.x), height: Math.max(1, to.y - from.y)};
  return draw('g', {class: kind}, draw('rect', {class: 'halo', ...place}), draw('rect', {class: 'line', ...place}),
    name && draw('text', {x: from.x + 3, y: Math.max(12, from.y - 4)}, name));
}

// Corners and edges of a box on the screen
function handles(box) {
  const from = toViewer(box[0], box[1]), to = toViewer(box[2], box[3]), middle = from.plus(to).divide(2);
  const columns = {left: from.x, '': middle.x, right: to.x}, rows = {top: from.y, '': middle.y, bottom: to.y};
  return Object.entries(columns).flatMap(([across, x]) => Object.entries(rows).map(([down, y]) => [[across, down], new OpenSeadragon.Point(x, y)]))
    .filter(([[across, down]]) => across || down);
}

function targetRow(chain, target) {
  const boxes = chain.map((box, level) => make('button',
    {'aria-pressed': `${target === at.target && level === at.level}`, onclick: () => choose(target, level)},
    `B${level + 1} `, make('small', {}, `${Math.round(box[2] - box[0])} x ${Math.round(box[3] - box[1])}`)));
  const name = chains.length > 1 ? `target ${target + 1}` : 'boxes';
  return make('div', {class: `target${target === at.target ? ' here' : ''}`}, make('span', {}, name), boxes.length ? boxes : make('small', {}, 'none yet'));
}

function suggestions() {
  const buttons = offers.map((offer, index) => make('button', {onclick: () => accept(offer)},
    `Take ${offer.chain.length} ${offer.chain.length > 1 ? 'boxes' : 'box'} of ${offer.from} `, index === 0 && make('kbd', {}, 'a')));
  if (about.policy) buttons.push(make('button', {onclick: () => askPolicy().catch(failed)}, 'Ask the policy ', make('kbd', {}, 'p')));
  return buttons.length ? [make('p', {class: 'chips'}, buttons)] : [];
}

function press(event) {
  const touched = at.level !== null && handles(chains[at.target][at.level]).find(([, point]) => point.distanceTo(event.position) <= HANDLE_PX);
  const from = event.position;
  drag = space ? null : touched
    ? {from, edges: touched[0], level: at.level, box: null}
    : {from, start: toImage(from), box: null};
}

function dragged(event) {
  if (!drag) return;
  event.preventDefaultAction = true;
  const point = toImage(event.position);
  if (drag.edges) drag.box = resized(chains[at.target], drag.level, drag.edges, point, shown.size);
  else Object.assign(drag, placed(chains[at.target], drag.start, point, shown.size));
  paint();
}

function dropped(event) {
  if (!drag?.box) return;
  event.preventDefaultAction = true;
  const {from, edges, level, box} = drag;
  drag = null;
  if (from.distanceTo(event.position) < CLICK_PX) show();
  else put(level, box, Boolean(edges));
}

function clicked(event) {
  if (!event.quick) return;
  drag = null;
  const [x, y] = toImage(event.position);
  const under = chains.flatMap((chain, target) => chain.map((box, level) => ({target, level, box})))
    .filter(({box}) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]).sort((a, b) => area(a.box) - area(b.box));
  if (under.length) choose(under[0].target, under[0].level);
  else choose(at.target);
}

function startViewer() {
  viewer = zoomable(byId('viewer'), [], {gestureSettingsMouse: {clickToZoom: false, dblClickToZoom: false}, keyboardNavEnabled: false, visibilityRatio: 0.2});
  viewer.container.append(svg);
  const whenOpen = handler => event => item() && handler(event);
  viewer.addHandler('canvas-press', whenOpen(press));
  viewer.addHandler('canvas-drag', whenOpen(dragged));
  viewer.addHandler('canvas-drag-end', whenOpen(dropped));
  viewer.addHandler('canvas-click', whenOpen(clicked));
  viewer.addHandler('canvas-pinch', () => { drag = null; });
  for (const name of ['open', 'update-viewport', 'resize']) viewer.addHandler(name, paint);
  viewer.addHandler('open', () => byId('viewer').dataset.open = shown.index);
  viewer.addHandler('open', prefetch);
  viewer.addHandler('open-failed', ({message}) => fault(byId('trouble'), new Error(`the image can't be shown: ${message}`)));
  byId('viewer').classList.add('draw');
}

// The server opens the image of the question that comes next while this one is drawn
const prefetch = () => shown.index + 1 < about.progress.total && api(`${API}/questions/${shown.index + 1}`).catch(() => {});

// ----------------------------------------------------------------------------------------------------------- the page

function say(text, isFault = false) {
  byId('said').textContent = text;
  byId('said').className = isFault ? 'fault' : 'note';
}

const failed = error => say(error.message, true);
const doing = action => (...given) => Promise.resolve(action(...given)).catch(failed);

const KEYS = {
  d: ['done, and the next open question', doing(() => finish('done'))],
  s: ['skip, and the next open question', doing(() => finish('skipped'))],
  j: ['next question', doing(() => go(shown.index + 1))],
  k: ['previous question', doing(() => go(shown.index - 1))],
  n: ['next open question', doing(nextOpen)],
  b: ['a box in the middle of what is seen', doing(boxInTheMiddle)],
  o: ['the next level outward', doing(outward)],
  t: ['next target, or a new one', nextTarget],
  '[': ['choose the next box inward', () => next(false)],
  ']': ['choose the next box outward', () => next(true)],
  ArrowLeft: ['', arrow], ArrowRight: ['', arrow], ArrowUp: ['', arrow],
  ArrowDown: ['move the chosen box, or the image; with Shift its right and lower edge', arrow, '← ↑ ↓ →'],
  x: ['delete the chosen box', remove],
  Delete: ['', remove],
  z: ['undo', () => undo(past, future)],
  y: ['undo the undo', () => undo(future, past)],
  a: ['take the first suggestion', () => accept()],
  p: ['ask the policy where it looks', doing(askPolicy)],
  '+': ['zoom in', () => viewer?.viewport.zoomBy(1.5)],
  '=': ['', () => viewer?.viewport.zoomBy(1.5)],
  '-': ['zoom out', () => viewer?.viewport.zoomBy(1 / 1.5)],
  f: ['the whole image', () => viewer?.viewport.goHome()],
  g: ['zoom to the chosen box, or to the suggestion', () => {
    const box = chains[at.target][at.level ?? chains[at.target].length - 1] ?? offers[0]?.chain.at(-1);
    if (box && item()) zoomTo(box);
  }],
  Escape: ['choose no box', () => { drag = null; document.activeElement?.blur?.(); choose(at.target); }],
};
const MOUSE = {
  drag: 'a new box: it stays inside the box where the drag begins, and encloses the others',
  handle: 'resize the chosen box, between its inner and its outer one',
  click: 'choose the smallest box there',
  wheel: 'zoom',
  'Space + drag': 'move the image',
};

function showKeys() {
  const rows = Object.entries(KEYS).filter(([, [meaning]]) => meaning).map(([key, [meaning, , shownAs]]) => [shownAs ?? key, meaning]);
  byId('keys').querySelector('dl').append(...[...rows, ...Object.entries(MOUSE)].flatMap(([key, meaning]) => [make('dt', {}, make('kbd', {}, key)), make('dd', {}, meaning)]));
  byId('keys').open = innerWidth > 832;
}

function showFiles() {
  byId('written').textContent = `Finished questions are in ${about.records}. Train on them:`;
  byId('train').textContent = about.train;
  byId('exports').replaceChildren('Export: ', ...about.exports.map(tool => make('a', {href: `${API}/export/${tool}`, download: ''}, tool.replace('_', ' '))));
  byId('import').addEventListener('change', doing(async event => {
    const [file] = event.target.files;
    if (!file) return;
    const answer = await api(`${API}/import?name=${encodeURIComponent(file.name)}`, undefined, {method: 'POST', body: file});
    event.target.value = '';
    showProgress(answer.progress);
    await open(shown.index);
    say([`${answer.imported} questions got their boxes from ${file.name}, ${answer.kept} kept their own`, ...answer.unused].join('; '));
  }));
  byId('annotator').value = localStorage.getItem('focus-annotator') ?? '';
  byId('annotator').addEventListener('change', event => localStorage.setItem('focus-annotator', event.target.value));
}

async function start() {
  about = await api(API);
  showProgress(about.progress);
  showFiles();
  showKeys();
  keyboard(KEYS);
  try {
    startViewer();
  } catch (error) {
    fault(byId('trouble'), error);
  }
  for (const button of document.querySelectorAll('button[data-key]')) button.addEventListener('click', () => KEYS[button.dataset.key][1]());
  document.addEventListener('keydown', event => {
    spent();
    if (event.key === ' ' && !event.target.closest('button, input, summary, a')) {
      space = true;
      event.preventDefault();
      byId('viewer').classList.replace('draw', 'pan');
    }
  });
  document.addEventListener('keyup', event => {
    if (event.key !== ' ') return;
    space = false;
    byId('viewer').classList.replace('pan', 'draw');
  });
  document.addEventListener('pointermove', spent);
  // What another tab saved while this one was hidden
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && refresh().catch(failed));
  addEventListener('popstate', () => go(Number(address().at ?? 1) - 1));
  addEventListener('beforeunload', event => theirs && event.preventDefault());
  const {at: number} = address();
  const first = number ? Number(number) - 1 : (await api(`${API}/next?after=-1&tab=${TAB}`)).index ?? 0;
  await open(first);
}

// Without questions the room says how to give some; that is no fault
start().catch(error => {
  if (error.status === 404) byId('room').replaceChildren(make('p', {class: 'note'}, error.message));
  else fault(byId('room'), error);
});
