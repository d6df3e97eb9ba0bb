'use strict';
(()=>{
const D=JSON.parse(document.getElementById('report').textContent);
const by=id=>document.getElementById(id);
const make=(tag,cls,text,parent)=>{const e=document.createElement(tag);if(cls)e.className=cls;
 if(text!==undefined&&text!=='')e.textContent=text;if(parent)parent.append(e);return e};
const q=by('q'),VERDICTS=['failed','stopped','built','skipped','hit'];
const WORDS={failed:'failed',stopped:'stopped',built:'built',skipped:'not run',hit:'in the store'};

// -- the data -----------------------------------------------------------------------------------
const steps=D.steps.map((r,i)=>({i,node:r[0],label:D.labels[r[1]],title:r[2],stage:r[3],where:r[4],
 verdict:VERDICTS[r[5]],began:r[6],ended:r[7],seconds:r[8],size:r[9],lane:r[10],key:r[11],
 why:r[12],needs:r[13]}));
const index=new Map(steps.map(s=>[s.node,s.i]));
const users=steps.map(()=>[]);
for(const s of steps)for(const n of s.needs)if(index.has(n))users[index.get(n)].push(s.i);
const critical=new Set(D.critical);
const text=steps.map(s=>[s.label,s.title,s.stage,s.where,s.verdict,WORDS[s.verdict],s.why.join(' ')]
 .join(' ').toLowerCase());
const spans=D.spans.map((r,i)=>({i,lane:r[0],start:r[1],end:r[2],kind:r[3],
 name:r[4]||steps[r[6]].title,ok:r[5],step:r[6]<0?null:steps[r[6]],own:r[3]==='step'?steps[r[6]]:null,note:r[7],amount:r[8]}));
let keep=null; // the steps that the search has found, null: all
const found=i=>keep===null||keep.has(i);

function duration(s){if(s>=3600)return Math.floor(s/3600)+' h '+Math.round(s%3600/60)+' min';
 if(s>=99.95)return Math.floor(s/60)+' min '+Math.round(s%60)+' s';
 return s>=.9995?s.toFixed(1)+' s':s>=.00095?(s*1000).toFixed(0)+' ms':(s*1e6).toFixed(0)+' µs'}
function bytes(n){if(!n)return'';let u=['B','kB','MB','GB','TB'],i=0,a=n;
 while(a>=999.5&&i<4){a/=1000;i++}return(i&&a<9.95?a.toFixed(1):a.toFixed(0))+' '+u[i]}
const spent=s=>s.verdict==='hit'||s.verdict==='skipped'?'':duration(s.seconds);

// -- tabs ---------------------------------------------------------------------------------------
const tabs=[...document.querySelectorAll('[role=tab]')];
function open(name,focus){const tab=by('tab-'+name);if(!tab)return;
 for(const t of tabs){const on=t===tab;t.setAttribute('aria-selected',on);t.tabIndex=on?0:-1;
  by(t.getAttribute('aria-controls')).classList.toggle('on',on)}
 if(focus)tab.focus();tab.scrollIntoView({block:'nearest',inline:'nearest'});
 if(name==='timeline')draw()}
tabs.forEach((t,n)=>{const name=t.id.slice(4);t.onclick=()=>{open(name);location.replace('#show-'+name)};
 t.onkeydown=e=>{const to={ArrowRight:n+1,ArrowLeft:n-1,Home:0,End:tabs.length-1}[e.key];
  if(to===undefined)return;e.preventDefault();e.stopPropagation();
  const next=tabs[(to+tabs.length)%tabs.length];open(next.id.slice(4),true)}});

// -- what is known of one step -------------------------------------------------------------------
function facts(s,into,brief){into.classList.add('detail');
 if(!brief){const head=make('p','',undefined,into);
  make('span','chip '+s.verdict,WORDS[s.verdict],head);head.append(' '+s.label)}
 if(!brief||s.title.length>100)make('p','title',s.title,into);
 const dl=make('dl','',undefined,into);
 const row=(name,value)=>{if(!value)return;make('dt','',name,dl);const dd=make('dd','',undefined,dl);
  if(typeof value==='string')dd.textContent=value;else value(dd)};
 const list=ids=>ids.length?dd=>{const ul=make('ul','plain',undefined,dd);
  ids.slice(0,30).forEach(i=>{const o=steps[i],b=make('button','link',o.title,make('li','',undefined,ul));
   b.title=o.label;b.onclick=e=>{e.stopPropagation();step(i)}});
  if(ids.length>30)make('li','quiet','and '+(ids.length-30)+' more',ul)}:'';
 row('why',s.why.length?dd=>{const ul=make('ul','plain',undefined,dd);
  for(const w of s.why)make('li','',w,ul)}:'');
 row('at',s.where);row('stage',s.stage);
 if(s.began!==null){const hit=s.verdict==='hit';
  row('took',duration(hit?s.ended-s.began:s.seconds)+(s.lane>0?' on worker '+s.lane:''));
  if(hit&&s.seconds)row('saved',duration(s.seconds)+', what it took when it was made');
  if(!hit)row('before it ran',s.ended-s.began-s.seconds>.05?
   duration(s.ended-s.began-s.seconds)+' for its key and for others':'');
  row('from, to',duration(s.began)+' – '+duration(s.ended))}
 row('size',bytes(s.size));row('key',s.key);
 row('stands on',list(s.needs.filter(n=>index.has(n)).map(n=>index.get(n))));
 row('is needed by',list(users[s.i]));
 const go=make('div','go',undefined,into);
 const to=(words,act)=>{make('button','',words,go).onclick=e=>{e.stopPropagation();act()}};
 if(by('f-'+s.node))to('its log',()=>{open('summary',true);by('f-'+s.node).scrollIntoView()});
 if(s.began!==null)to('in the timeline',()=>{open('timeline',true);lookAt(s)});
 if(by('tab-graph')&&D.levels.includes('step'))to('in the graph',()=>{open('graph',true);inGraph(s)})}
function inGraph(s){const id=s.label+' #'+s.node;globalThis.show('step');
 const boxes=JSON.parse(by('data').textContent).step.boxes,i=boxes.findIndex(b=>b.id===id);
 if(i>=0){globalThis.pick(i);globalThis.centre(i)}}

// -- steps --------------------------------------------------------------------------------------
const body=by('rows'),more=by('more'),order=by('order'),off=new Set();let shown=200,expanded=-1;
const SORTS={worst:(a,b)=>VERDICTS.indexOf(a.verdict)-VERDICTS.indexOf(b.verdict)||
  (b.verdict==='hit'?0:b.seconds-a.seconds)||a.i-b.i,
 slow:(a,b)=>(b.verdict==='hit'?-1:b.seconds)-(a.verdict==='hit'?-1:a.seconds)||a.i-b.i,
 large:(a,b)=>b.size-a.size||a.i-b.i,time:(a,b)=>(a.began??1e12)-(b.began??1e12)||a.i-b.i,
 graph:(a,b)=>a.node-b.node};
function table(){const list=steps.filter(s=>found(s.i)&&!off.has(s.verdict)).sort(SORTS[order.value]);
 const at=list.findIndex(s=>s.i===expanded);if(at>=shown)shown=at+20;
 body.replaceChildren();
 for(const s of list.slice(0,shown)){const tr=make('tr','s',undefined,body);tr.id='s-'+s.node;
  const chip=make('td','chipc',undefined,tr);make('span','chip '+s.verdict,WORDS[s.verdict],chip);
  const td=make('td','step',undefined,tr),b=make('button','t clip',s.title,td);
  b.setAttribute('aria-expanded',s.i===expanded);make('div','label',s.label+(s.where?' · '+s.where:''),td);
  const why=make('td','whyc',undefined,tr);
  make('div','why clip',s.why.join('; '),why);
  make('td','num timec',spent(s),tr);make('td','num sizec',bytes(s.size),tr);
  tr.onclick=()=>{if(String(getSelection()))return;expanded=expanded===s.i?-1:s.i;table();
   body.querySelector('#s-'+s.node+' button').focus()};
  if(s.i===expanded){const d=make('tr','',undefined,body),cell=make('td','whole',undefined,d);
   cell.colSpan=5;facts(s,cell,true)}}
 more.hidden=list.length<=shown;more.textContent='show more of '+list.length;
 by('none').hidden=list.length>0}
more.onclick=()=>{shown+=500;table()};
order.onchange=()=>{shown=200;table()};
for(const b of document.querySelectorAll('[data-verdict]'))b.onclick=()=>{const v=b.dataset.verdict;
 off.has(v)?off.delete(v):off.add(v);b.setAttribute('aria-pressed',!off.has(v));table()};
function step(i){expanded=i;off.delete(steps[i].verdict);
 for(const b of document.querySelectorAll('[data-verdict]'))
  b.setAttribute('aria-pressed',!off.has(b.dataset.verdict));
 if(!found(i)){q.value='';search()}
 open('steps');table();const row=by('s-'+steps[i].node);row.scrollIntoView({block:'center'});
 row.querySelector('button').focus()}
for(const b of document.querySelectorAll('[data-node]'))b.onclick=()=>{
 const i=index.get(+b.dataset.node);if(i!==undefined)step(i)};

// -- timeline -----------------------------------------------------------------------------------
const tl=by('tl'),axis=by('axis'),tip=by('tip'),card=by('card');
const lanes=D.lanes.map((name,n)=>{const e=make('div','lane',undefined,tl);make('b','',name,e);
 return{e:make('div','',undefined,e),spans:spans.filter(s=>s.lane===n)}});
const total=Math.max(D.total,1e-6);let t0=0,t1=total,cur=-1,asked=false;
function draw(){if(asked)return;asked=true;requestAnimationFrame(()=>{asked=false;drawNow()})}
function drawNow(){const W=tl.clientWidth,k=W/(t1-t0),x=t=>(t-t0)*k;
 axis.replaceChildren();let unit=10**Math.floor(Math.log10((t1-t0)/W*90));
 unit*=[1,2,5,10].find(f=>f*unit*k>=90)||10;
 for(let n=Math.ceil(t0/unit);n*unit<=t1;n++){const e=make('span','',n?duration(n*unit):'0',axis);
  e.style.left=x(n*unit)+'px'}
 for(const lane of lanes){const out=[];let edge=-1;
  for(const s of lane.spans){const left=x(s.start),right=x(s.end);
   if(right<0||left>W)continue;
   const must=s.i===cur||!s.ok; // what is too thin to be seen apart is drawn once
   if(right<edge&&!must)continue;
   const a=Math.max(left,-4),w=Math.max(Math.min(right,W+4)-a,2);
   if(w<=2)edge=a+2;
   const e=make('div','sp '+(s.own?s.own.verdict:s.ok?s.kind:'failed'));
   if(w<12)e.classList.add('thin');else e.textContent=s.own?s.name+' · '+s.own.label:s.name;
   if(s.own&&critical.has(s.own.node))e.classList.add('c');
   if(keep!==null&&!(s.step?keep.has(s.step.i):matches(s)))e.classList.add('dim');
   if(s.i===cur)e.classList.add('cur');
   e.style.left=a+'px';e.style.width=w+'px';e.dataset.i=s.i;out.push(e)}
  lane.e.replaceChildren(...out)}}
const matches=s=>words().every(w=>(s.name+' '+s.note+' '+s.kind).toLowerCase().includes(w));
function limit(){const w=Math.min(Math.max(t1-t0,total*1e-6),total*1.04);
 t0=Math.min(Math.max(t0,-total*.02),total*1.02-w);t1=t0+w;draw()}
function zoom(f,at){const w=(t1-t0)*f;t0=at-(at-t0)*f;t1=t0+w;limit()}
function pan(share){const d=(t1-t0)*share;t0+=d;t1+=d;limit()}
function fitAll(){t0=-total*.01;t1=total*1.01;limit()}
const timeAt=px=>t0+(px-tl.getBoundingClientRect().left)/tl.clientWidth*(t1-t0);
const middle=()=>cur>=0&&spans[cur].end>t0&&spans[cur].start<t1?
 (Math.max(spans[cur].start,t0)+Math.min(spans[cur].end,t1))/2:(t0+t1)/2;
const KINDS={prepare:'reading the workspace, asking for images and packages',image:'image',
 test:'test',check:'check',service:'service',phase:'phase'};
function tell(s){tip.replaceChildren();if(!s)return;const p=make('div','',undefined,tip);
 const o=s.own;
 make('span','chip '+(o?o.verdict:s.ok?'':'failed'),o?WORDS[o.verdict]:s.ok?s.kind:s.kind+' failed',p);
 make('code','',' '+(s.kind==='prepare'?KINDS.prepare:s.name),p);
 const line=[o?o.label:s.note,o?o.where:'',duration(s.end-s.start)+', '+duration(s.start)+' – '+
  duration(s.end),bytes(o?o.size:s.amount)].filter(Boolean).join(' · ');
 make('div','quiet',line,tip);
 if(o&&o.why.length)make('div','quiet clip','because '+o.why.join('; '),tip)}
function choose(i,look){cur=i;const s=spans[i];
 if(look){const w=t1-t0;if(s.end<t0+w*.02||s.start>t1-w*.02){t0=(s.start+s.end-w)/2;t1=t0+w}
  tl.children[s.lane+1].scrollIntoView({block:'nearest'})}
 tell(s);limit()}
function lookAt(step){const s=spans.find(s=>s.own===step);if(!s)return;
 const w=Math.max((s.end-s.start)*6,total*.002);t0=(s.start+s.end-w)/2;t1=t0+w;choose(s.i,true);tl.focus()}
function details(i){const s=spans[i];card.hidden=!s.step;if(!s.step)return;card.replaceChildren();
 const x=make('button','x','×',card);x.setAttribute('aria-label','close');
 x.onclick=()=>{card.hidden=true;tl.focus()};facts(s.step,card)}
tl.addEventListener('wheel',e=>{e.preventDefault();
 if(e.shiftKey||Math.abs(e.deltaX)>Math.abs(e.deltaY))pan((e.deltaX||e.deltaY)/tl.clientWidth);
 else zoom(Math.exp(e.deltaY*.0018),timeAt(e.clientX))},{passive:false});
const fingers=new Map();let moved=0,spread=0;
tl.onpointerdown=e=>{fingers.set(e.pointerId,[e.clientX,e.clientY]);moved=0;spread=0;tl.classList.add('d')};
tl.onpointermove=e=>{const p=fingers.get(e.pointerId);
 if(!p){const t=e.target.closest('.sp');if(t)tell(spans[+t.dataset.i]);return}
 const dx=e.clientX-p[0],dy=e.clientY-p[1];fingers.set(e.pointerId,[e.clientX,e.clientY]);
 moved+=Math.abs(dx)+Math.abs(dy);if(moved>4)try{tl.setPointerCapture(e.pointerId)}catch(_){}
 if(fingers.size===1){pan(-dx/tl.clientWidth);tl.scrollTop-=dy}
 else if(fingers.size===2){const[a,b]=[...fingers.values()],d=Math.hypot(a[0]-b[0],a[1]-b[1]);
  if(spread&&d)zoom(spread/d,timeAt((a[0]+b[0])/2));spread=d}};
tl.onpointerup=tl.onpointercancel=e=>{fingers.delete(e.pointerId);spread=0;tl.classList.remove('d')};
tl.onpointerleave=()=>tell(cur<0?null:spans[cur]);
tl.addEventListener('click',e=>{if(moved>4)return;const t=e.target.closest('.sp');
 if(t){choose(+t.dataset.i);details(+t.dataset.i)}});
function beside(by){const s=spans[cur],all=lanes[s.lane].spans,next=all[all.indexOf(s)+by];
 if(next)choose(next.i,true)}
function across(by){const s=spans[cur],at=(Math.max(s.start,t0)+Math.min(s.end,t1))/2;
 for(let n=s.lane+by;n>=0&&n<lanes.length;n+=by){if(!lanes[n].spans.length)continue;
  const far=o=>Math.max(o.start-at,at-o.end,0);
  choose(lanes[n].spans.reduce((a,b)=>far(b)<far(a)?b:a).i,true);return}}
tl.addEventListener('keydown',e=>{if(!spans.length||e.ctrlKey||e.metaKey||e.altKey)return;
 const first=f=>()=>cur<0?choose((lanes.find(l=>l.spans.some(s=>s.own))||lanes[0]).spans[0].i,true):f();
 const keys={'+':()=>zoom(.7,middle()),'=':()=>zoom(.7,middle()),'-':()=>zoom(1/.7,middle()),
  '0':fitAll,ArrowLeft:e.shiftKey?()=>pan(-.15):first(()=>beside(-1)),
  ArrowRight:e.shiftKey?()=>pan(.15):first(()=>beside(1)),
  ArrowUp:first(()=>across(-1)),ArrowDown:first(()=>across(1)),
  Enter:()=>{if(cur>=0)details(cur)}};
 if(keys[e.key]){e.preventDefault();e.stopPropagation();keys[e.key]()}});
by('closer').onclick=()=>zoom(.6,middle());by('wider').onclick=()=>zoom(1/.6,middle());
by('all').onclick=fitAll;
new ResizeObserver(draw).observe(tl);

// -- search -------------------------------------------------------------------------------------
const words=()=>q.value.toLowerCase().split(/\s+/).filter(Boolean);
function search(){const all=words();
 keep=all.length?new Set(steps.filter(s=>all.every(w=>text[s.i].includes(w))).map(s=>s.i)):null;
 by('found').textContent=keep===null?'':keep.size+' of '+steps.length+' steps';
 by('count').textContent=keep===null?D.nodes:keep.size;shown=200;table();draw()}
q.addEventListener('input',search);
q.addEventListener('keydown',e=>{if(e.key==='Escape')setTimeout(search);
 if(e.key==='Enter'&&by('tab-summary').getAttribute('aria-selected')==='true')open('steps')});
document.addEventListener('keydown',e=>{if(e.key==='Escape'){card.hidden=true;setTimeout(search)}
 if(e.key==='/'&&e.target!==q&&!D.levels.length){q.focus();e.preventDefault()}});
order.value=steps.some(s=>s.verdict==='failed')?'worst':'slow';
fitAll();search();const asks=location.hash.slice(6);open(by('tab-'+asks)?asks:'summary');
})();
