// Ask a policy about a picture, watch it look, take its crop away
import {api, draw, fault, keyboard, make} from '/web/common.js';

const at = id => document.getElementById(id);
const STEPS = Array.from({length: 13}, (_, i) => 4 * 2 ** i);  // visual tokens of the view: 4 to 16,384
const WORDS = {noise: 'noise', blank: 'grey', mean_colour: 'its mean colour', elsewhere: 'elsewhere'};
const KEY = {noise: 'n', blank: 'g', mean_colour: 'm', elsewhere: 'e'};
const room = {pictures: [], picture: null, answer: null, views: {}, running: null};

const pictureUrl = (key, side) => `/api/try/pictures/${encodeURIComponent(key)}${side ? `?side=${side}` : ''}`;
const plural = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

// --------------------------------------------------------------------------------------------------- picture and view

function choose(picture) {
  stop();
  room.picture = picture;
  room.answer = null;
  at('picture').src = pictureUrl(picture.key);
  at('picture').hidden = false;
  at('picture-fault').replaceChildren();
  for (const button of at('strip').children) button.setAttribute('aria-pressed', button.dataset.key === picture.key);
  if (picture.policy && isEmbedded() && at('policy').value !== picture.policy) {  // each of them reads pictures of one kind
    at('policy').value = picture.policy;
    ownView();
  }
  at('question').value = picture.question ?? '';
  clear();
  tell();
}

function clear() {
  at('turns').replaceChildren();
  at('boxes').replaceChildren();
  at('fault').replaceChildren();
  say('own', '–', 'Ask, and watch it look.');
  say('without', '–', 'The same question, answered at once from the view.');
  say('swapped', '–', 'What it answers when its crop shows something else.');
  for (const button of at('swaps').children) { button.disabled = true; button.setAttribute('aria-pressed', false); }
}

async function open(file) {
  if (!file) return;
  try {
    const headers = {'Content-Type': 'application/octet-stream'};
    const sent = await api('/api/try/pictures', undefined, {method: 'POST', body: file, headers});
    choose({...sent, kind: 'own'});
    at('question').focus();
  } catch (error) {
    fault(at('picture-fault'), error);
  }
}

function thumbnail(picture, n) {
  const image = make('img', {src: pictureUrl(picture.key, 128), alt: '', loading: 'lazy'});
  const name = `${picture.kind} ${n + 1}: ${picture.question}`;
  const about = {'data-key': picture.key, 'aria-pressed': false, 'aria-label': name, title: name};
  return make('button', {type: 'button', ...about, onclick: () => choose(picture)}, image);
}

const isEmbedded = () => room.pictures.some(picture => picture.policy === at('policy').value);
const viewTokens = () => STEPS[at('view').value];

function tell() {  // what the settings mean
  at('tokens').textContent = `at most ${plural(viewTokens(), 'visual token')}`;
  const strange = isEmbedded() && room.picture && room.picture.policy !== at('policy').value;
  at('hint').textContent = strange ? 'This policy has learned its own pictures alone.' : '';
}

function ownView() {  // the view that the chosen policy was trained at
  const own = room.views[at('policy').value];
  at('view').value = STEPS.findIndex(step => step >= own);
  at('must').checked = isEmbedded();  // a base that was not trained to crop rarely does
  tell();
}

function mark(boxes) {
  const {width, height} = room.picture;
  at('boxes').setAttribute('viewBox', `0 0 ${width} ${height}`);
  at('boxes').setAttribute('preserveAspectRatio', 'none');
  at('boxes').replaceChildren(...boxes.flatMap(([x1, y1, x2, y2]) => ['under', 'box'].map(
    kind => draw('rect', {class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1}))));
}

// ------------------------------------------------------------------------------------------------------- conversation

// Lines of JSON, as the server writes them
async function* lines(path, body, signal) {
  const answer = await fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body), signal});
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({detail: `the server answered ${answer.status}`}))).detail);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (left + value).split('\n');
    left = parts.pop();
    for (const part of parts) {
      const line = JSON.parse(part);
      if (line.fault) throw new Error(line.fault);
      yield line;
    }
  }
}

function say(id, text, note, kind = '') {
  at(id).textContent = text;
  at(id).className = `said ${text.length > 24 ? 'long' : ''} ${kind === 'waiting' ? 'waiting' : ''}`;
  at(`${id}-note`).textContent = note;
  at(`${id}-note`).className = `note ${kind}`;
}

const shown = line => line.answer ?? 'no answer';
const why = line => (line.answer === null ? `It ended ${line.status}. ` : '');

const verdictOf = (id, line, changed, stayed) =>
  say(id, shown(line), why(line) + (line.changed ? changed : stayed), line.changed ? 'changed' : 'stayed');

function turnItem(turn, n) {
  const what = turn.box_px ? 'asks for a crop' : turn.error ? 'makes a mistake' : 'answers';
  const crop = turn.crop && make('img', {src: turn.crop.url, alt: `Crop of turn ${n}`, width: turn.crop.width, height: turn.crop.height});
  const size = turn.crop ? `${turn.crop.width} × ${turn.crop.height} px, ${plural(turn.crop.tokens, 'token')}` : turn.error;
  return make('li', {}, make('div', {}, make('h3', {}, `Turn ${n}`), make('p', {class: 'note what'}, what)),
    make('div', {}, make('pre', {}, turn.text), size && make('p', {class: 'note'}, turn.crop ? `It gets: ${size}` : size), crop));
}

function viewItem(view) {
  const image = make('img', {src: view.url, alt: 'The view', width: view.width, height: view.height});
  return make('li', {}, make('div', {}, make('h3', {}, 'View'), make('p', {class: 'note'}, 'all that it sees at first')),
    make('div', {}, make('p', {class: 'note'}, `${view.width} × ${view.height} px, ${plural(view.tokens, 'visual token')}`), image));
}

// Play a conversation and show its turns; returns its last line
async function play(path, body, signal) {
  const boxes = [];
  const items = [];
  let last = null;
  const add = turn => {
    if (turn.box_px) boxes.push(turn.box_px);
    items.push(turnItem(turn, items.length));
  };
  for await (const line of lines(path, body, signal)) {
    if (line.view) { items.push(viewItem(line.view)); line.turns.forEach(add); }
    if (line.turn) add(line.turn);
    if (line.status) last = line;
    at('turns').replaceChildren(...items);
    mark(boxes);
  }
  if (!last) throw new Error('the conversation ended without an answer; is make lightbox still running?');
  return last;
}

// One question at a time: what was running before is stopped
async function run(work) {
  stop();
  const running = room.running = new AbortController();
  at('stop').hidden = false;
  at('fault').replaceChildren();
  try {
    await work(running.signal);
  } catch (error) {
    if (!running.signal.aborted) fault(at('fault'), error);
    const note = running.signal.aborted ? 'Stopped.' : 'No answer: see above.';
    for (const id of ['own', 'without', 'swapped']) if (at(id).classList.contains('waiting')) say(id, '–', note);
  } finally {
    if (room.running === running) { room.running = null; at('stop').hidden = true; }
  }
}

function stop() {
  room.running?.abort();
}

function ask() {
  if (!room.picture) return fault(at('fault'), new Error('choose a picture first'));
  const asked = {policy: at('policy').value, picture: room.picture.key, question: at('question').value};
  const body = {...asked, view_tokens: viewTokens(), must_crop: at('must').checked};
  return run(async signal => {
    clear();
    room.answer = null;
    say('own', 'looking …', '', 'waiting');
    const own = await play('/api/try/ask', body, signal);
    room.answer = own.key;
    const verdict = own.right === null ? [`${plural(own.visual_tokens, 'visual token')} in all.`, ''] :
      own.right ? ['Right.', 'right'] : [`Wrong: it is ${room.picture.answer}.`, 'wrong'];
    say('own', shown(own), why(own) + verdict[0], verdict[1]);
    const crops = at('turns').querySelectorAll('img').length - 1;
    for (const button of at('swaps').children) button.disabled = crops < 1;
    if (crops < 1) say('swapped', '–', 'It made no crop, so there is nothing to replace.');
    say('without', 'answering …', '', 'waiting');
    const kept = [...at('turns').children], boxes = [...at('boxes').children];
    const without = await quietly('/api/try/again', {answer: own.key, crops: 'without'}, signal);
    at('turns').replaceChildren(...kept);
    at('boxes').replaceChildren(...boxes);
    verdictOf('without', without, 'Another answer: the crop made the difference.', 'The same answer, without looking.');
  });
}

// Play a conversation without showing its turns
async function quietly(path, body, signal) {
  let last = null;
  for await (const line of lines(path, body, signal)) if (line.status) last = line;
  if (!last) throw new Error('the conversation ended without an answer; is make lightbox still running?');
  return last;
}

function swap(crops) {
  if (!room.answer || [...at('swaps').children].every(button => button.disabled)) return;
  run(async signal => {
    for (const button of at('swaps').children) button.setAttribute('aria-pressed', button.dataset.crops === crops);
    say('swapped', 'answering …', '', 'waiting');
    const other = await play('/api/try/again', {answer: room.answer, crops}, signal);
    verdictOf('swapped', other, 'The answer changed: it used its crop.', 'The answer stays: it did not need its crop.');
  });
}

// -------------------------------------------------------------------------------------------------------------- begin

function slide(by) {
  at('view').value = Number(at('view').value) + by;
  tell();
}

async function begin() {
  at('view').max = STEPS.length - 1;
  const choices = await api('/api/try/choices');
  room.pictures = choices.pictures;
  for (const policy of choices.policies) {
    room.views[policy.name] = policy.view_tokens;
    at('policy').append(make('option', {value: policy.name}, policy.name));
  }
  at('strip').append(...choices.pictures.map(thumbnail));
  at('swaps').append(...choices.crops.map(crops => {
    const about = {disabled: true, 'aria-pressed': false, 'data-crops': crops, title: `key ${KEY[crops]}`};
    return make('button', {type: 'button', ...about, onclick: () => swap(crops)}, WORDS[crops]);
  }));
  ownView();
  choose(room.pictures[0]);
}

at('form').addEventListener('submit', event => { event.preventDefault(); ask(); });
at('stop').addEventListener('click', stop);
at('policy').addEventListener('change', ownView);
at('view').addEventListener('input', tell);
at('open').addEventListener('click', () => at('file').click());
at('file').addEventListener('change', () => { open(at('file').files[0]); at('file').value = ''; });
for (const name of ['dragover', 'dragleave', 'drop']) document.addEventListener(name, event => {
  event.preventDefault();
  at('drop').classList.toggle('over', name === 'dragover');
  if (name === 'drop') open(event.dataTransfer.files[0]);
});

function step(by) {
  const now = room.pictures.findIndex(each => each.key === room.picture?.key);
  choose(room.pictures[(now + by + room.pictures.length) % room.pictures.length]);
}

keyboard({
  'j': ['next picture', () => step(1)],
  'k': ['picture before', () => step(-1)],
  'o': ['open a picture', () => at('file').click()],
  'q': ['write a question', () => at('question').focus()],
  'a': ['ask', ask],
  '+': ['a finer view', () => slide(1)],
  '-': ['a coarser view', () => slide(-1)],
  ...Object.fromEntries(Object.entries(KEY).map(([crops, key]) => [key, [`its crop becomes ${WORDS[crops]}`, () => swap(crops)]])),
  'Escape': ['stop, or leave a field', () => { document.activeElement.blur(); stop(); }],
});
begin().catch(error => fault(at('fault'), error));
