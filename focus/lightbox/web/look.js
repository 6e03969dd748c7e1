import {api, fault, make} from '/web/common.js';

const room = document.getElementById('room');
try {
  const {runs} = await api('/api/look/runs');
  room.append(make('ul', {}, runs.map(run => make('li', {}, run.name))));
} catch (error) {
  fault(room, error);
}
