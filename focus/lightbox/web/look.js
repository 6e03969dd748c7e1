// The room Look. What is shown stands in the address: run, table, arm, filter, sort, search, at (a trajectory), with (another run), beside (a trajectory of it)
import {address, api, draw, fault, imageUrl, keyboard, make, setAddress, zoomable, zoomUrl} from '/web/common.js';

const COLOURS = ['#f76707', '#1c7ed6', '#9c36b5', '#0ca678'];  // the n-th crop and its box share one, as in report.html
const FILTERS = {
  right: 'right', wrong: 'wrong', with_crop: 'with a crop', without_crop: 'without a crop', missed: 'missed the evidence',
  same_with_noise: 'same answer with noise', level_group: 'group of equal rewards', malformed: 'malformed', with_pictures: 'with pictures',
};
const OPPOSITE = {right: 'wrong', wrong: 'right', with_crop: 'without_crop', without_crop: 'with_crop'};
const SORTS = {
  '': 'as played', largest_box: 'largest box', smallest_box: 'smallest box', least_covered: 'least evidence in the crop',
  lowest_reward: 'lowest reward', highest_reward: 'highest reward', smallest_advantage: 'lowest advantage', largest_advantage: 'highest advantage',
};
const ARMS = {
  own: ['as it plays', 'The crop that it asked for'], gt: ['annotated crop', 'The annotated evidence in place of its crop'],
  noise: ['noise', 'Noise in place of its crop'], noise_first: ['first noise', 'Noise in place of its first crop'], noise_second: ['second noise', 'Noise in place of its second crop'],
  blank: ['blank', 'A grey image in place of its crop'],
  mean_colour: ['mean colour', 'The mean colour of its crop'], elsewhere: ['elsewhere', 'A crop of another place'],
  conflict: ['contradiction', 'A crop that shows another answer than the view'],
  additive: ['plus noise', 'Its crop with noise added'], format_only: ['call only', 'The call, without an image'],
  tool_free: ['answer forced', 'It must answer before any crop'], forced: ['crop forced', 'It must crop first'], no_tool: ['no tool', 'No tool is offered'],
};
const FIRST = ['reward/total', 'reward/accuracy', 'crop/rate', 'probe/D_noise', 'crop/coverage', 'crop/area'];
const PAGE = 50;

const room = document.getElementById('room');
const list = make('aside', {id: 'list', 'aria-label': 'Trajectories'});
const opened = make('article', {id: 'open', tabindex: -1});
room.append(list, opened);

let runs = [];
let tables = {tables: [], arms: [], problems: [], note: '', history: false};
let shown = [];  // the rows of the list
let viewers = [];
let boxes = true;

const state = () => ({run: '', table: 'all', arm: 'own', filter: '', sort: '', search: '', at: '', with: '', beside: '', ...address()});
const query = values => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ''));
const href = changes => `?${query({...state(), ...changes})}`;
const number = (value, digits = 2) => value === null || value === undefined ? '–' : value.toFixed(digits).replace('-', '−');
const signed = value => value === null || value === undefined ? 'not graded' : `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(2)}`;
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const size = picture => `${picture.width} × ${picture.height} px`;
const count = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;
const verdict = row => row.right === null ? '' : row.right >= 0.5 ? 'right' : 'wrong';
const mark = row => make('span', {class: `mark ${verdict(row)}`, title: verdict(row) || 'not graded'}, {right: '✓', wrong: '✗', '': '·'}[verdict(row)]);
const link = (changes, attributes, ...children) => make('a', {href: href(changes), ...attributes, onclick: event => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(changes, true);
}}, ...children);

// Change the address and show what it says
async function go(changes, push = false) {
  const before = state();
  setAddress({...before, ...changes}, push);
  await show(before);
}

// A run, with what it played last
async function openRun(run, push = false) {
  const {tables} = await api(`/api/look/tables?${query({run})}`);
  await go({run, table: tables.at(-1)?.name ?? 'all', arm: 'own', filter: '', sort: '', search: '', at: '', with: '', beside: ''}, push);
}

let turn = 0;
async function show(before = {}) {
  const now = state(), mine = ++turn;
  const changed = (...keys) => keys.some(key => now[key] !== before[key]);
  try {
    if (!now.run && runs.length) return openRun((runs.find(run => run.tables) ?? runs[0]).name);
    if (!now.run) return empty();
    if (changed('run')) tables = await api(`/api/look/tables?${query({run: now.run})}`);
    if (mine !== turn) return;
    if (changed('run', 'table', 'arm', 'filter', 'sort', 'search')) await showList(now, mine);
    if (mine !== turn) return;
    list.querySelectorAll('.rows a').forEach(row => row.dataset.at === now.at ? row.setAttribute('aria-current', 'true') : row.removeAttribute('aria-current'));
    if (!changed('run', 'at', 'with', 'beside')) return;
    room.classList.toggle('opened', Boolean(now.at));
    if (now.at) await showTrajectory(now, mine);
    else await showRun(now, mine);
  } catch (error) {
    if (mine !== turn) return;
    clear();
    fault(opened, error);
    if (!list.children.length) list.append(chooseRun(now.run));
  }
}

function empty() {
  clear(make('h2', {}, 'No run is here yet'), make('p', {}, 'Train a policy with make stage1, or measure one with make probe. Runs in these folders are shown: '),
    make('pre', {}, folders.join('\n')));
}

function clear(...children) {
  viewers.forEach(viewer => viewer.destroy());
  viewers = [];
  opened.replaceChildren(...children);
}

// The list

async function showList(now, mine) {
  const asked = {run: now.run, table: now.table, arm: now.arm, filter: now.filter, sort: now.sort, search: now.search};
  const page = await api(`/api/look/rows?${query({...asked, count: PAGE})}`);
  if (mine !== turn) return;
  shown = page.rows;
  const typing = document.activeElement?.id === 'search' ? document.activeElement : null;
  const chosen = now.filter.split(',').filter(Boolean);
  const toggle = name => {
    const kept = chosen.filter(each => each !== name && each !== OPPOSITE[name]);
    return go({filter: (chosen.includes(name) ? kept : [...kept, name]).join(','), at: now.at});
  };
  const chips = Object.entries(FILTERS).filter(([name]) => page.counts[name] || chosen.includes(name)).map(([name, label]) =>
    make('button', {'aria-pressed': String(chosen.includes(name)), onclick: () => toggle(name)}, label, make('small', {}, page.counts[name].toLocaleString('en'))));
  const rows = make('ol', {class: 'rows', 'aria-label': 'Trajectories'}, page.rows.map(listed));
  const more = () => {
    if (shown.length >= page.count) return;
    const button = make('button', {onclick: async () => {
      const next = await api(`/api/look/rows?${query({...asked, count: PAGE, start: shown.length})}`);
      shown = [...shown, ...next.rows];
      button.parentElement.replaceWith(...next.rows.map(listed));
      more();
    }}, `${count(page.count - shown.length, 'more')}`);
    rows.append(make('li', {}, button));
  };
  more();
  const search = make('input', {id: 'search', type: 'search', value: now.search, placeholder: 'Search questions and answers', 'aria-label': 'Search questions and answers',
    oninput: event => { clearTimeout(search.timer); search.timer = setTimeout(() => go({search: event.target.value}), 200); }});
  const kinds = [...new Set(tables.tables.map(table => table.kind))].filter(kind => tables.tables.filter(table => table.kind === kind).length > 1);
  const names = {update: 'All updates', probe: 'All probes', evaluation: 'All evaluations'};
  list.replaceChildren(
    chooseRun(now.run),
    make('p', {class: 'note'}, link({at: '', beside: ''}, {}, 'Curves of this run')),
    choice('Played', [['all', 'everything'], ...kinds.map(kind => [kind, names[kind]]), ...tables.tables.map(table => [table.name, table.title])],
      now.table, table => go({table})),
    make('div', {class: 'pair'}, tables.arms.length > 1 ? choice('Arm of the probe', tables.arms.map(arm => [arm, ARMS[arm]?.[0] ?? arm]), now.arm, arm => go({arm})) : null,
      choice('Order', Object.entries(SORTS), now.sort, sort => go({sort}))),
    search, make('div', {class: 'chips', role: 'group', 'aria-label': 'Filters'}, chips),
    make('output', {class: 'note'}, page.count === page.total ? count(page.count, 'trajector').replace(/trajectors?/, page.count === 1 ? 'trajectory' : 'trajectories')
      : `${page.count.toLocaleString('en')} of ${page.total.toLocaleString('en')} trajectories`),
    ...[...new Set([...tables.problems, ...page.problems])].map(problem => make('p', {class: 'fault'}, problem)),
    tables.note ? make('p', {class: 'note'}, tables.note) : rows,
  );
  if (typing) {
    const again = document.getElementById('search');
    again.value = typing.value;
    again.focus();
    again.setSelectionRange(typing.selectionStart, typing.selectionEnd);
  }
}

const chooseRun = chosen => choice('Run', runs.map(run => [run.name, run.title]), chosen,
  run => openRun(run, true));

function choice(label, options, value, changed) {
  const select = make('select', {onchange: event => changed(event.target.value)}, options.map(([name, text]) => make('option', {value: name, selected: name === value}, text)));
  return make('label', {}, label, select);
}

function listed(row) {
  const facts = [row.answer ?? row.status, row.crops ? `${count(row.crops, 'crop')}, box ${percent(row.area)}` : 'no crop',
    row.total === null ? null : `reward ${number(row.total)}`, row.same_with_noise ? 'same with noise' : null].filter(Boolean).join(' · ');
  return make('li', {}, link({at: row.at, beside: ''}, {'data-at': row.at, 'aria-current': row.at === state().at && 'true'},
    mark(row), make('span', {class: 'question'}, row.question), make('small', {}, facts)));
}

// A run: its curves

async function showRun(now, mine) {
  const title = runs.find(run => run.name === now.run)?.title ?? now.run;
  clear(make('h2', {}, title));
  if (tables.note) opened.append(make('p', {}, tables.note));
  if (!tables.history) return;
  const {updates, series} = await api(`/api/look/history?${query({run: now.run})}`);
  if (mine !== turn || !updates.length) return;
  opened.append(make('p', {class: 'note'}, 'A click on a curve opens the kept update that is nearest.'));
  if (!globalThis.uPlot) return opened.append(make('p', {class: 'fault'}, 'The curves need uPlot; run make env-lightbox, then load this page again.'));
  const measured = Object.keys(series).filter(name => series[name].some(value => value !== null));
  const level = name => series[name].every(value => value === null || value === 0);
  const first = FIRST.filter(name => measured.includes(name));
  const others = measured.filter(name => !first.includes(name) && !level(name));
  const curves = make('div', {class: 'curves'});
  opened.append(curves);
  const sync = globalThis.uPlot.sync('updates');
  const drawn = name => curve(curves, name, updates, series[name], sync);
  first.forEach(drawn);
  if (others.length) {
    opened.append(make('p', {}, make('button', {onclick: event => { event.target.remove(); others.forEach(drawn); }}, `${others.length} more curves`)));
  }
}

function curve(parent, name, updates, values, sync) {
  const style = getComputedStyle(document.documentElement);
  const colour = variable => style.getPropertyValue(variable).trim();
  const said = make('output', {});
  const card = make('div', {class: 'card'}, make('b', {}, name), said);
  parent.append(card);
  const points = values.filter(value => value !== null).length < 60;
  const axis = {stroke: colour('--muted'), grid: {stroke: colour('--rule'), width: 1}, ticks: {stroke: colour('--rule'), width: 1}, font: '11px system-ui, sans-serif'};
  const plot = new globalThis.uPlot({
    width: card.clientWidth - 20, height: 170, legend: {show: false}, scales: {x: {time: false}, y: {range: (_, low, high) => low === high ? [low - 1, high + 1] : globalThis.uPlot.rangeNum(low, high, 0.1, true)}}, cursor: {sync: {key: sync.key}, drag: {x: false, y: false}},
    axes: [{...axis, size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000]}, {...axis, size: 48}], series: [{}, {stroke: colour('--accent'), width: 2, spanGaps: true, points: {show: points, size: 4, fill: colour('--accent')}}],
    hooks: {setCursor: [({cursor}) => {
      const at = cursor.idx ?? values.findLastIndex(value => value !== null);
      said.textContent = values[at] === null ? '' : `update ${updates[at]}: ${Number(values[at].toPrecision(3))}`;
    }]},
  }, [updates, values], card);
  plot.over.addEventListener('click', () => {
    const kept = tables.tables.filter(table => table.kind === 'update');
    if (plot.cursor.idx === null || !kept.length) return;
    const update = updates[plot.cursor.idx];
    go({table: kept.reduce((best, table) => Math.abs(table.update - update) < Math.abs(best.update - update) ? table : best).name}, true);
  });
}

// A trajectory

async function showTrajectory(now, mine) {
  const [one, other] = await Promise.all([
    api(`/api/look/trajectory?${query({run: now.run, at: now.at})}`),
    now.beside ? api(`/api/look/trajectory?${query({run: now.with || now.run, at: now.beside})}`) : null,
  ]);
  if (mine !== turn) return;
  const step = (by, label, key) => make('button', {onclick: () => move(by)}, label, ' ', make('kbd', {}, key));
  clear(make('div', {class: 'bar'}, link({at: '', beside: ''}, {class: 'back'}, '‹ List'),
    make('span', {class: 'facts'}, [one.table.title, one.siblings.length > 1 ? `rollout ${one.rollout + 1} of ${one.siblings.length}` : null, one.status].filter(Boolean).join(' · ')),
    make('span', {class: 'spread'}), make('span', {class: 'steps'}, step(-1, '‹', 'k'), ' ', step(1, '›', 'j')),
    make('button', {onclick: event => navigator.clipboard.writeText(location.href).then(() => { event.target.textContent = 'Copied'; }, () => prompt('The link:', location.href))}, 'Copy link')));
  if (other) {
    const left = make('div', {class: 'beside compact'}), right = make('div', {class: 'beside compact'});
    opened.append(make('p', {}, make('button', {onclick: () => go({beside: '', with: ''})}, 'Close the comparison')), make('div', {class: 'pair'}, left, right));
    details(left, one, named(now.run));
    details(right, other, named(now.with || now.run));
  } else details(opened, one, '');
  elsewhere(one, now);
  if (!matchMedia('(min-width: 60rem)').matches) scrollTo(0, 0);
}

const named = run => runs.find(each => each.name === run)?.title ?? run;

function details(parent, one, run) {
  if (run) parent.append(make('h3', {}, `${run}: ${one.table.title}`));
  const right = verdict(one);
  parent.append(
    make('h2', {class: 'asked'}, one.question), ...one.options.map(([key, text]) => make('p', {class: 'note'}, `${key}. ${text}`)),
    make('p', {class: `answer ${right}`}, make('b', {class: right}, one.answer ?? 'no answer'), make('small', {}, `${right || 'not graded'}; accepted: ${one.accepted.join(' | ')}`)),
  );
  pictures(parent, one);
  const told = make('section', {}, make('h3', {}, 'What was said'));
  parent.append(told);
  conversation(told, one);
  if (one.terms.length) parent.append(reward(one));
  if (one.arms.length) parent.append(arms(one));
}

const crops = one => one.turns.filter(turn => turn.action === 'crop' && turn.crop);

function overlay(one) {
  const frame = ([x1, y1, x2, y2], attributes) => draw('rect', {x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...attributes});
  const air = one.width / 150;  // so that the line hides nothing of small evidence
  const around = ([x1, y1, x2, y2]) => [x1 - air, y1 - air, x2 + air, y2 + air];
  return draw('svg', {class: 'boxes', viewBox: `0 0 ${one.width} ${one.height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    one.boxes.flat().map(around).flatMap(box => [frame(box, {class: 'evidence-mat'}), frame(box, {class: 'evidence'})]),
    crops(one).map((turn, n) => frame(turn.box_px, {class: 'crop', stroke: COLOURS[n % COLOURS.length]})));
}

function pictures(parent, one) {
  const seen = make('div', {class: 'seen'}), deep = make('div', {class: 'deep'});
  parent.append(
    make('div', {class: 'look'},
      make('figure', {}, make('figcaption', {}, make('b', {}, 'What the model saw'), make('small', {}, `${size(one.view)}, ${count(one.view.tokens, 'token')}`)), seen),
      make('figure', {}, make('figcaption', {}, make('b', {}, 'The original'), make('small', {}, `${size(one)}; wheel or pinch zooms`)), deep)),
    make('p', {class: 'legend'},
      ...crops(one).map((turn, n) => make('button', {class: 'zoom', onclick: () => focus(turn.box_px)}, line(n), `crop ${n + 1}: ${turn.box_px.map(Math.round).join(', ')}`)),
      one.boxes.length ? make('span', {}, make('i', {class: 'dashed'}), `annotated evidence${one.boxes.some(chain => chain.length > 1) ? ', from the innermost box outward' : ''}`) : 'no annotated evidence',
      one.coverage === null ? null : make('span', {}, `the last crop holds ${percent(one.coverage)} of it`)),
  );
  const missing = () => make('p', {class: 'note card'}, one.problem || 'This picture was removed from the folder of the run.');
  if (one.view.picture) {
    const frame = make('div', {class: 'frame'}, make('img', {src: imageUrl(one.view.picture), alt: `The view of ${size(one.view)}`}), overlay(one));
    const fit = () => {
      const scale = Math.min(seen.clientWidth / one.view.width, seen.clientHeight / one.view.height);
      frame.style.width = `${one.view.width * scale}px`;
      frame.style.height = `${one.view.height * scale}px`;
    };
    seen.append(frame);
    new ResizeObserver(fit).observe(seen);
  } else seen.replaceChildren(missing());
  let viewer = null;
  if (one.original) {
    api(zoomUrl(one.original)).then(source => {
      if (!deep.isConnected) return;
      viewer = zoomable(deep, source);
      viewers.push(viewer);
      viewer.addHandler('open', () => viewer.addOverlay({element: overlay(one), location: new OpenSeadragon.Rect(0, 0, 1, one.height / one.width)}));
    }).catch(error => fault(deep, error));
  } else deep.replaceChildren(missing());
  const focus = ([x1, y1, x2, y2]) => {
    if (!viewer) return;
    const width = one.width, margin = 0.15 * (x2 - x1);
    viewer.viewport.fitBounds(new OpenSeadragon.Rect((x1 - margin) / width, (y1 - margin) / width, (x2 - x1 + 2 * margin) / width, (y2 - y1 + 2 * margin) / width));
  };
}

function line(n) {
  const mark = make('i');
  mark.style.borderColor = COLOURS[n % COLOURS.length];
  return mark;
}

function native(picture, n, alt) {
  const image = make('img', {class: 'native', src: imageUrl(picture), alt});
  image.style.borderColor = COLOURS[n % COLOURS.length];
  return image;
}

function conversation(parent, one) {
  const given = (title, tokens, text, ...more) => make('div', {class: 'said given'}, make('b', {}, title, make('small', {}, `${count(tokens, 'token')}, no loss`)), text ? make('pre', {}, text) : null, more);
  const turns = make('div', {class: 'turns'});
  turns.append(given('Prompt, with the question and the view', one.prompt_tokens, ''));
  if (one.prefill) turns.append(given('Written for it', one.prefill_tokens, one.prefill));
  let n = 0;
  one.turns.forEach((turn, i) => {
    const faulty = turn.fault ? make('p', {class: 'wrong'}, `Not carried out: ${turn.fault}`) : null;
    turns.append(make('div', {class: 'said sampled'}, make('b', {}, `Turn ${i + 1}, sampled`, make('small', {}, count(turn.tokens, 'token'))), make('pre', {}, turn.text), faulty));
    if (turn.reply === null) return;
    let crop = null;
    if (turn.crop) {
      const [x1, y1, x2, y2] = turn.box_px;
      crop = [turn.crop.picture ? native(turn.crop.picture, n, `Crop ${n + 1} at its own size`) : null,
        make('small', {}, `Crop ${n + 1}: ${size(turn.crop)}, ${count(turn.crop.tokens, 'token')}, from ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px of the original`)];
      n++;
    }
    turns.append(given('Reply of the tool', turn.reply_tokens, turn.crop ? '' : turn.reply, crop));
  });
  parent.append(turns);
}

function reward(one) {
  const paid = one.terms.filter(term => term.weight !== null), logged = one.terms.filter(term => term.weight === null);
  const most = Math.max(1e-9, ...paid.map(term => Math.abs(term.amount ?? 0)));
  const row = term => make('tr', {}, make('th', {}, term.name), make('td', {}, number(term.raw)), make('td', {}, term.weight === null ? '–' : `× ${number(term.weight)}`),
    make('td', {class: term.amount < 0 ? 'wrong' : ''}, term.weight === null ? 'only logged' : signed(term.amount)),
    make('td', {}, term.amount > 0 ? make('meter', {min: 0, max: most, value: term.amount, title: `${signed(term.amount)} of ${number(one.total)}`}) : null),
    make('td', {class: 'note'}, term.closed_gate ? `nothing, because ${term.closed_gate} is 0` : ''));
  const table = make('table', {class: 'terms'}, make('thead', {}, make('tr', {}, ['term', 'value', 'weight', 'adds', '', ''].map(title => make('th', {}, title)))),
    make('tbody', {}, paid.map(row), logged.map(row),
      make('tr', {class: 'sum'}, make('th', {}, 'total'), make('td'), make('td'), make('td', {}, number(one.total)), make('td'), make('td')),
      make('tr', {}, make('th', {}, 'advantage'), make('td'), make('td'), make('td', {}, signed(one.advantage)), make('td'), make('td', {class: 'note'}, one.spread === 0 ? 'its group has equal rewards and teaches nothing' : 'beside its group'))));
  const group = make('div', {class: 'strip'}, one.siblings.map(each => link({at: each.at, beside: ''}, {'aria-current': each.at === one.at && 'true'}, mark(each), ` ${each.answer ?? each.status} · ${number(each.total)}`)));
  return make('section', {}, make('h3', {}, 'Reward'), make('div', {class: 'wide'}, table), one.siblings.length > 1 ? [make('h3', {}, 'Its group'), group] : null);
}

function arms(one) {
  const all = [one, ...one.arms].sort((a, b) => Object.keys(ARMS).indexOf(a.arm) - Object.keys(ARMS).indexOf(b.arm));
  const own = all.find(each => each.arm === 'own');
  const cards = all.map(each => {
    const crop = crops(each).at(-1);
    const [title, about] = ARMS[each.arm] ?? [each.arm, ''];
    const same = own && each !== own && own.crops ? make('small', {}, each.answer === own.answer ? 'the same answer' : 'another answer') : null;
    return make('div', {class: 'card'}, make('h4', {}, title), make('p', {class: 'note'}, about),
      crop?.crop.picture ? native(crop.crop.picture, crops(each).length - 1, `What it was shown: ${title}`) : make('p', {class: 'none'}, crop ? 'picture not kept' : 'no crop'),
      make('p', {class: 'given'}, mark(each), ' ', make('b', {}, each.answer ?? each.status), make('br'), same),
      each.at === one.at ? null : link({at: each.at, arm: each.arm, beside: ''}, {}, 'Open'));
  });
  const differs = own?.crops ? all.filter(each => ['noise', 'blank', 'mean_colour', 'elsewhere'].includes(each.arm) && each.answer !== own.answer).length : 0;
  const replaced = own?.crops ? all.filter(each => ['noise', 'blank', 'mean_colour', 'elsewhere'].includes(each.arm)).length : 0;
  const sentence = !own?.crops ? 'It answered without a crop, so there was nothing to replace.'
    : !replaced ? null : differs ? `With another crop it answers otherwise in ${differs} of ${replaced} arms.` : 'It answers the same without its crop: here the crop was not used.';
  return make('section', {}, make('h3', {}, 'If the crop were another'), sentence ? make('p', {}, sentence) : null, make('div', {class: 'arms'}, cards));
}

// The same question in other tables and runs

function elsewhere(one, now) {
  const place = make('div', {class: 'wide'});
  const other = now.with || now.run;
  const section = make('section', {}, make('h3', {}, 'The same question over training, and in other runs'),
    make('p', {class: 'other'}, choice('Run', runs.map(run => [run.name, run.title]), other, run => go({with: run === now.run ? '' : run, beside: ''}))), place);
  opened.append(section);
  api(`/api/look/same?${query({run: other, sample: one.id})}`).then(({rows}) => {
    if (!rows.length) return place.replaceChildren(make('p', {class: 'note'}, 'That run has not kept this question.'));
    place.replaceChildren(make('table', {class: 'over'}, make('thead', {}, make('tr', {}, ['', 'when', 'answer', 'crops', 'box', ''].map(title => make('th', {}, title)))),
      make('tbody', {}, rows.map(row => make('tr', {}, make('td', {}, mark(row)),
        make('td', {}, other === now.run ? link({at: row.at, beside: ''}, {'aria-current': row.at === now.at && 'true'}, row.title) : row.title),
        make('td', {}, row.answer ?? row.status), make('td', {}, row.crops), make('td', {}, row.area === null ? '–' : percent(row.area)),
        make('td', {}, other === now.run && row.at === now.at ? 'open' : link({beside: row.at}, {}, 'Compare')))))));
  }).catch(error => fault(place, error));
}

// Keys

function move(by) {
  const at = shown.findIndex(row => row.at === state().at);
  const next = shown[at < 0 ? 0 : at + by];
  if (!next) return;
  go({at: next.at, beside: ''});
  list.querySelector(`[data-at="${CSS.escape(next.at)}"]`)?.scrollIntoView({block: 'nearest'});
}

keyboard({
  j: ['next trajectory of the list', () => move(1)],
  k: ['previous trajectory', () => move(-1)],
  b: ['show or hide the boxes', () => { boxes = !boxes; opened.classList.toggle('no-boxes', !boxes); }],
  0: ['whole picture', () => viewers.forEach(viewer => viewer.viewport.goHome())],
  c: ['curves of the run', () => go({at: '', beside: ''}, true)],
  '/': ['search', () => document.getElementById('search')?.focus()],
  Escape: ['leave the search', () => document.activeElement?.blur()],
});
addEventListener('popstate', () => show({}));

let folders = [];
try {
  ({runs, folders} = await api('/api/look/runs'));
  await show();
} catch (error) {
  fault(opened, error);
}
