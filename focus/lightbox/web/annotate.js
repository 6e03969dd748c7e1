import {make} from '/web/common.js';

document.getElementById('room').append(make('p', {class: 'note'}, 'Nothing is here.'));
