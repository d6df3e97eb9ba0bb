"""Knows how a picture becomes one HTML page that works from a file: three levels to switch between,
search, pan and zoom; must not know where its boxes come from.

Nothing is fetched: the policy in its head forbids it and names the one script by its hash. Texts
of theirs reach the page escaped, and the script puts them in as text only (A63).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from buildgraph.graph.picture import LEVELS, Box, Level, Picture, duration, facts
from buildgraph.graph.picture_svg import STYLE, drawing, text_of

PAGE_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2430;--line:#d5dae1;--quiet:#5b6675}
@media (prefers-color-scheme:dark){:root{--bg:#14181d;--fg:#e6eaf0;--line:#363f4a;--quiet:#9aa7b8}}
*{box-sizing:border-box}html,body{height:100%;margin:0}
body{display:flex;flex-direction:column;background:var(--bg);color:var(--fg);
font:14px ui-sans-serif,system-ui,sans-serif}
header>div{display:flex;gap:4px}
header{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;padding:8px 12px;
border-bottom:1px solid var(--line)}
h1{font-size:15px;margin:0}.sum{color:var(--quiet);font-size:12.5px}
button,input{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);
border-radius:6px;padding:5px 10px;min-height:32px}
button{cursor:pointer}button[aria-pressed=true]{background:#2f6fde;border-color:#2f6fde;color:#fff}
input{flex:1 1 150px;min-width:120px;max-width:340px}
main{flex:1;min-height:0;position:relative;overflow:hidden}
#v{width:100%;height:100%;touch-action:none;cursor:grab;display:block}#v.d{cursor:grabbing}
#v .b{cursor:pointer}.dim{opacity:.16}.f rect{stroke:#2f6fde!important;stroke-width:3!important}
.l.f{stroke:#2f6fde!important;stroke-width:2.2}
aside{position:absolute;right:10px;bottom:10px;width:min(380px,calc(100% - 20px));max-height:55%;
overflow:auto;background:var(--bg);border:1px solid var(--line);border-radius:8px;
padding:10px 12px;box-shadow:0 4px 18px #0003;overflow-wrap:anywhere}
aside h2{font-size:14px;margin:0 26px 6px 0}aside p{margin:3px 0;color:var(--quiet)}
aside button.x{position:absolute;right:6px;top:6px;border:0;padding:2px 8px}
aside ul{margin:2px 0 6px;padding-left:18px}aside li button{border:0;padding:1px 0;min-height:0;
text-align:left;color:#2f6fde;background:none;overflow-wrap:anywhere}
.keys span{margin-right:10px;white-space:nowrap}.keys i{display:inline-block;width:11px;height:11px;
border-radius:3px;margin-right:4px;vertical-align:-1px;border:1px solid}
"""

SCRIPT: Final = """
'use strict';
const D=JSON.parse(document.getElementById('data').textContent);
const by=id=>document.getElementById(id),v=by('v'),q=by('q'),info=by('info');
const levels=Object.keys(D);let level=levels[0],box=[0,0,1,1],picked=-1;
const el=(n,i)=>by('x'+levels.indexOf(n)+'-'+i);
const view=()=>v.setAttribute('viewBox',box.join(' '));
const node=(tag,text,parent,cls)=>{const e=document.createElement(tag);if(text)e.textContent=text;
 if(cls)e.className=cls;if(parent)parent.append(e);return e};
function fit(){const r=v.getBoundingClientRect(),[w,h]=D[level].size;
 const k=Math.max(w/r.width,h/r.height,.8)||1;
 box=[(w-r.width*k)/2,(h-r.height*k)/2,r.width*k,r.height*k];view()}
function start(){fit();const r=v.getBoundingClientRect(),k=box[2]/r.width;
 if(k>1.6&&r.width){const y=box[1]+box[3]/2;let best=0,far=1e9;
 D[level].boxes.forEach((b,i)=>{const t=el(level,i).querySelector('rect'),x=+t.getAttribute('x'),
 d=x*4+Math.abs(+t.getAttribute('y')-y);if(d<far){far=d;best=+t.getAttribute('y')}});
 box=[0,best+23-r.height*.8,r.width*1.6,r.height*1.6];view()}}
function show(name){level=name;picked=-1;info.hidden=true;
 for(const n of levels){by('g-'+n).style.display=n===name?'':'none';
 by('t-'+n).setAttribute('aria-pressed',n===name)}
 search();start()}
function mark(keep,found){D[level].boxes.forEach((b,i)=>{const e=el(level,i);
 e.classList.toggle('dim',keep!==null&&!keep.has(i));e.classList.toggle('f',found.has(i))});
 for(const l of by('g-'+level).querySelectorAll('.l')){
 const[a,b]=l.dataset.l.split(' ').map(Number);
 l.classList.toggle('dim',keep!==null&&!(keep.has(a)&&keep.has(b)));
 l.classList.toggle('f',picked>=0&&keep!==null&&keep.has(a)&&keep.has(b)&&(a===picked||b===picked))}}
function search(){const words=q.value.toLowerCase().split(/\\s+/).filter(Boolean);
 picked=-1;info.hidden=true;
 if(!words.length){mark(null,new Set());by('n').textContent='';return}
 const hits=new Set();D[level].boxes.forEach((b,i)=>{
 const text=(b.id+' '+b.title+' '+b.note+' '+b.facts+' '+b.where).toLowerCase();
 if(words.every(w=>text.includes(w)))hits.add(i)});
 mark(hits,hits);by('n').textContent=hits.size+' found'}
function reach(start,edges){const seen=new Set([start]),todo=[start];
 while(todo.length)for(const o of edges[todo.pop()])if(!seen.has(o)){seen.add(o);todo.push(o)}
 return seen}
function list(title,ids){if(!ids.length)return;node('p',title,info);const ul=node('ul','',info);
 for(const i of ids){const b=node('button',D[level].boxes[i].id,node('li','',ul));
 b.onclick=()=>{pick(i);centre(i)}}}
function centre(i){const r=el(level,i).querySelector('rect');
 box[0]=+r.getAttribute('x')+116-box[2]/2;box[1]=+r.getAttribute('y')+23-box[3]/2;view()}
function pick(i){picked=i;const d=D[level],b=d.boxes[i];
 if(!d.up){d.up=d.boxes.map(()=>[]);d.boxes.forEach((x,j)=>x.needs.forEach(n=>d.up[n].push(j)))}
 const down=reach(i,d.boxes.map(x=>x.needs)),up=reach(i,d.up);
 mark(new Set([...down,...up]),new Set([i]));
 info.replaceChildren();info.hidden=false;
 const x=node('button','\\u00d7',info,'x');x.setAttribute('aria-label','close');x.onclick=search;
 node('h2',b.id,info);if(b.title!==b.id)node('p',b.title,info);
 if(b.facts)node('p',b.facts+(b.critical?' \\u00b7 on the longest way':''),info);
 if(b.where)node('p',b.where,info);
 list('needs',b.needs);list('is needed by',d.up[i])}
q.oninput=search;
q.onkeydown=e=>{if(e.key==='Escape'){q.value='';search()}
 if(e.key==='Enter'){const i=D[level].boxes.findIndex((b,j)=>el(level,j).classList.contains('f'));
 if(i>=0){pick(i);centre(i)}}};
for(const n of levels)by('t-'+n).onclick=()=>show(n);
by('fit').onclick=fit;
function zoom(k,cx,cy){const r=v.getBoundingClientRect(),w=box[2]*k;
 if(w<120||w>1e6)return;const fx=(cx-r.left)/r.width,fy=(cy-r.top)/r.height;
 box=[box[0]+box[2]*fx*(1-k),box[1]+box[3]*fy*(1-k),w,box[3]*k];view()}
v.addEventListener('wheel',e=>{e.preventDefault();zoom(Math.exp(e.deltaY*.0016),e.clientX,e.clientY)},
 {passive:false});
const fingers=new Map();let moved=0,spread=0;
v.onpointerdown=e=>{fingers.set(e.pointerId,[e.clientX,e.clientY]);moved=0;spread=0;v.classList.add('d')};
v.onpointermove=e=>{const p=fingers.get(e.pointerId);if(!p)return;
 const dx=e.clientX-p[0],dy=e.clientY-p[1];fingers.set(e.pointerId,[e.clientX,e.clientY]);
 moved+=Math.abs(dx)+Math.abs(dy);if(moved>4)try{v.setPointerCapture(e.pointerId)}catch(_){}
 if(fingers.size===1){const k=box[2]/v.getBoundingClientRect().width;
 box[0]-=dx*k;box[1]-=dy*k;view()}
 else if(fingers.size===2){const[a,b]=[...fingers.values()],d=Math.hypot(a[0]-b[0],a[1]-b[1]);
 if(spread)zoom(spread/d,(a[0]+b[0])/2,(a[1]+b[1])/2);spread=d}};
v.onpointerup=v.onpointercancel=e=>{fingers.delete(e.pointerId);spread=0;v.classList.remove('d')};
v.addEventListener('click',e=>{if(moved>4)return;const g=e.target.closest('.b');
 if(g)pick(+g.id.split('-')[1]);else search()});
document.addEventListener('keydown',e=>{if(e.target===q)return;
 const r=v.getBoundingClientRect(),x=r.left+r.width/2,y=r.top+r.height/2,s=box[2]/12;
 const keys={'+':()=>zoom(.8,x,y),'=':()=>zoom(.8,x,y),'-':()=>zoom(1.25,x,y),'0':fit,
 '/':()=>{q.focus();e.preventDefault()},Escape:()=>{q.value='';search()},
 ArrowLeft:()=>{box[0]-=s;view()},ArrowRight:()=>{box[0]+=s;view()},
 ArrowUp:()=>{box[1]-=s;view()},ArrowDown:()=>{box[1]+=s;view()}};
 if(keys[e.key])keys[e.key]()});
window.addEventListener('resize',start);
show(level);
"""

_KEYS: Final = (
    ("#e2f4e6", "#3f9556", "in the store"),
    ("#fdeedd", "#c9771c", "would be built"),
    ("#e8eefb", "#5f7fc4", "depends on a step before"),
)


class Canvas(Struct, frozen=True):
    """The parts of a page with a graph: its buttons, the drawing, and the data of `SCRIPT`.

    `SCRIPT` wants them in a page with an input #q, and says in #n how many it has found.
    """

    buttons: str
    main: str
    data: str


def canvas(picture: Picture, levels: Sequence[Level] = LEVELS) -> Canvas:
    """Return the parts for some levels of a picture, of which there is at least one."""
    data: dict[str, object] = {}
    groups: list[str] = []
    for place, level in enumerate(levels):
        boxes = picture.levels[level]
        body, width, height = drawing(boxes, f"x{place}-")
        groups.append(f'<g id="g-{level}" style="display:none">{body}</g>')
        number = {box.id: index for index, box in enumerate(boxes)}
        data[level] = {"size": [width, height], "boxes": [_row(box, number) for box in boxes]}
    buttons = "".join(
        f'<button id="t-{level}" aria-pressed="false">{level}s '
        f"<small>{len(picture.levels[level])}</small></button>"
        for level in levels
    )
    return Canvas(
        f"<div>{buttons}</div>",
        f'<svg id="v" role="img" aria-label="graph">{"".join(groups)}</svg>'
        '<aside id="info" hidden></aside>',
        f'<script type="application/json" id="data">{script_json(data)}</script>',
    )


def head(title: str, style: str, scripts: Sequence[str]) -> str:
    """Return the start of a page that may fetch nothing and run nothing but these scripts."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text_of(title)}</title><style>{style}</style></head>"
    )


def page(picture: Picture) -> str:
    """Return the whole page."""
    parts = canvas(picture)
    return (
        f"{head(picture.name, STYLE + PAGE_STYLE, [SCRIPT])}<body>"
        f"<header><h1>{text_of(picture.name)}</h1>{parts.buttons}"
        '<input id="q" type="search" placeholder="search (press /)" aria-label="search">'
        '<button id="fit">fit</button>'
        f'<span class="sum"><span id="n"></span> {text_of(_summary(picture))}</span>'
        f'<span class="sum keys">{legend(_KEYS)}</span></header>'
        f"<main>{parts.main}</main>{parts.data}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _row(box: Box, number: Mapping[str, int]) -> dict[str, object]:
    return {
        "id": box.id,
        "title": box.title,
        "note": box.note,
        "facts": facts(box),
        "where": box.where,
        "critical": box.critical,
        "needs": [number[name] for name in box.needs],
    }


def _summary(picture: Picture) -> str:
    counts = picture.counts
    parts = [f"{counts[v]} {v}" for v in ("hit", "build", "depends") if counts.get(v)]
    if picture.longest:
        parts.append(f"longest way {duration(picture.longest)} of {duration(picture.total)}")
    return " · ".join(parts)


def legend(keys: Sequence[tuple[str, str, str]]) -> str:
    """Return what colours mean: fill, border and words of each."""
    return "".join(
        f'<span><i style="background:{fill};border-color:{line}"></i>{words}</span>'
        for fill, line, words in keys
    )


def script_json(value: object) -> str:
    """Return JSON for the inside of a script element: nothing in it can end that."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
