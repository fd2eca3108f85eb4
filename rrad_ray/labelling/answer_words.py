"""The words by which answers name documents, announce their order, or say that documents are not relevant."""

from __future__ import annotations

import re


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def any_of(*words: str) -> re.Pattern[str]:
    """Return a pattern of any of some patterns, in either case."""
    return re.compile(_any(*words), re.IGNORECASE)


_DOCUMENT = _any(
    *(r"(?:passage|document|doc|text|item|candidate|result|snippet|article|paragraph|option)s?",),
    *("文档", "文檔", "文書", "文件", "文章", "段落", "文献", "候选", "候補"),
    *("ドキュメント", "テキスト", "パッセージ", "記事", "문서", "단락", "지문", "본문", "구절", "문단", "후보"),
    *("dokument", "passagem", "documento", "texte", "texto", "pasaje", "absatz", "passaggio", "doküman", "belge"),
    *("документ", "пассаж", "отрывок", "уривок", "المستند", "الوثيقة", "المقطع", "đoạn", "tài liệu"),
    *("दस्तावेज़", "เอกสาร"),
)
_BY_NUMBER = _any("ids?", r"no\.?", "numbers?", "identifier", "编号", "番号", "번호", "号")
# A document's name, before its number: `Document ID: 3`, `passage no. 3`, `doc_3`, 文档编号3.
ANY_NAME = rf"(?:{_DOCUMENT}(?:[ _-]?{_BY_NUMBER})?[ ]?[:=#_-]?|\bids?[ ]?[:=#])"
COUNTER = _any("번", "号", "篇")  # behind the number: 3번

_ANNOUNCES = _any(
    *(r"\b(?:re-?)?rank(?:ed|ing|ings|[ -]order)?\b", r"\b(?:order(?:ed|ing)?|sort(?:ed|ing)?)\b", r"\bfinal\b"),
    *(r"\banswer\b", r"\boutput\b", r"\bresults?\b", r"\bconclusion\b", r"\b(?:so|therefore|thus|hence)\b", "boxed"),
    *(r"\brangfolge\b", r"\bclassement\b", r"\bclasificaci[oó]n\b", r"\bantwort\b", r"\bréponse\b", r"\brespuesta\b"),
    *("排名", "排序", "顺序", "順序", "排列", "结果", "結果", "答案", "最终", "最終", "结论", "順位", "順番", "回答"),
    *("答え", "並び", "結論", "ランキング", "순위", "순서", "정답", "답변", "결과", "최종", "결론"),
    *(r"\b(?:reihenfolge|endgültig\w*|ergebnis|ordre|orden|ordem|ordine|finale|resposta|risposta)\b",),
    *(r"\b(?:resultado|risultato|volgorde|antwoord|odpowiedź|kolejność|sıralama|cevap|yanıt|sonuç)\b",),
    *(r"\b(?:jawaban|urutan|peringkat)\b", "xếp hạng", "trả lời", "итогов", "ответ", "порядок", "рейтинг"),
    *("відповідь", "الإجابة", "الترتيب", "उत्तर", "คำตอบ", "ลำดับ"),
)
ANNOUNCEMENT = re.compile(_ANNOUNCES, re.IGNORECASE)
# What announces an order stands right before it, with no end of a sentence between.
MARKER = re.compile(rf"{_ANNOUNCES}(?:[^.!?\n]|\.(?=\d)){{0,60}}\Z", re.IGNORECASE)

# What introduces documents beside an order, though it speaks of one: `Lower ranked: [4]`, `Rest of the ranking: [2]`.
BESIDE_ORDER = re.compile(
    r"\A[\W_]*(?:(?:also|the|all|those|documents?|passages?|are|rank(?:ed|ing)|order(?:ed)?|listed)\b[\s:]*){0,3}"
    r"(?:not?\b|un(?:ranked|ordered|listed)|low(?:er|est)?\b|bottom\b|worst\b|rest\b|remain\w*|others?\b|next\b|"
    r"tied?\b|ties\b|outside\b|excluded\b|below\b|left ?over)(?![^:\n]{0,30}\b(?:to|first|last|is|are|i|you|we)\b|,)|"
    r"\A(?!.*[从從由到]|.*부터|.*から).{0,16}(?:未排|其余|其餘|其他|剩余|靠后|较低|較低|以外|순위 ?[외밖]|"
    "하위|나머지|기타|圏外|順位外|その他|残り|下位)",
    re.IGNORECASE,
)

_ABOUT = r"(?:\w+\s){0,2}?(?:relevan|relat|useful|helpful|answer|address)"
NEGATIVE = any_of(
    *(rf"(?:\b(?:not?|non|never|hardly)|n't)[\s-]{{1,3}}{_ABOUT}", "irrelevan", "unrelated", r"off-?topic"),
    r"\bnot (?:included|listed|ranked|selected|chosen)\b|\bunranked\b",
    *("未(?:排|列入|入选)", "순위 ?[외밖]", "(?:圏|順位|ランク)外"),
    *(
        r"\bexclud",
        r"\bomit",
        r"\bdiscard",
        "left out",
        "nicht relevant",
        "no relevante",
        "non pertinent",
        "hors sujet",
    ),
    *("nicht passend", "sans rapport", "pas pertinent", "no relacionad", "non rilevan", "irrilevan"),
    "não (?:são )?relevan",
    *("niet relevant", "(?:inte|ikke) relevant", "nerelevant", "nieistotn", "nie (?:są )?(?:istotn|trafn|relewant)"),
    *("ilgisiz", "alakasız", "ilgili değil", "không liên quan", "tidak (?:relevan|terkait|berkaitan)", "epäolennai"),
    *("нерелевант", "не (?:относ|связан|имеют? отношения|релевант|стосу)", "άσχετ"),
    *("אינ[הםן]? רלוונטי", "לא רלוונטי"),
    *("غير (?:ذات|ذي|مرتبط|متعلق)", "لا صلة", "نامرتبط", "अप्रासंगिक", "प्रासंगिक नहीं", "ไม่เกี่ยวข้อง"),
    *(
        "(?:不|无|無|没有|沒有|非)(?:太)?(?:相关|相關|关联|關聯)",
        "无关",
        "無關",
        "無関係",
        "関連しない",
        "関係[がの]?な",
    ),
    *("関連性?[がのはも]?(?:な[いしく]|薄)", "無関連", r"관련\s?성?\s?[이은도]?\s?(?:없|적)", "무관"),
)
EXAMPLE = any_of(
    *(r"\b(?:example|instance)s?\b", r"\be\.g\.", r"\bformat\b", r"\btemplate\b", r"\bsuch as\b"),
    *("例えば", "例如", "示例", "格式", "例:", "예시", "형식", "예를", r"\bbeispiel", r"\bexemple", r"\bejemplo"),
    *(r"\besempi", r"\bexemplo", "voorbeeld", r"\bprzykład", r"\be[kx]sempel", r"\bexempel"),
    *(r"\börne[kğ]", r"\bcontoh"),
    *("пример(?!но)", "приклад", "مثال", "उदाहरण", "ví dụ", "ตัวอย่าง", "範例"),
)
# Announces an order that is only mentioned beside the answer's.
ALTERNATIVE = re.compile(
    r"\b(?:an?|another|the) (?:alternative|different|other possible) (?:rank|order)\w*|\bi (?:had )?considered\b|"
    r"\brunner-?up (?:rank|order)\w*|\b(?:rank|order)\w* by (?:freshness|date|recency|popularity|length)\b|"
    r"\bwrite\b[^.\n]{0,40}\blike\b",
    re.IGNORECASE,
)
IN_FORMAT = re.compile(r"\b(?:in|using|with|following)\b[^.\n]{0,40}\bformat\b", re.IGNORECASE)
# "From least to most" in the languages whose words for both are known, in every combination: a text has one language.
_LEAST = _any(
    *(r"\b(?:least|worst|lowest|minst|meno|menos|moins|najmniej|nejméně|mindst|mins?st|wenigsten|legkevésbé)\b",),
    *(
        r"\b(?:peor(?:es)?|pior(?:es)?|peggior[ei]|pires?|schlechteste\w*|slechtste|najgorsz\w*|sämst\w*|vähiten|unwichtigste\w*)\b",
    ),
    *(r"\b(?:en az|kötü\w*|mai puțin)\b", "наименее", "найменш", "худш", "найгірш", "ít liên quan nhất", "λιγότερο"),
    *("الأقل", "सबसे कम", "paling (?:tidak|kurang)", "น้อยที่สุด", "ה?פחות רלוונטי", "کم.{0,12}ترین"),
)
_MOST = _any(
    *(r"\b(?:most|best|highest|meest|più|más|mais|plus|najbardziej|nejvíce|mest|meisten|leginkább)\b",),
    *(
        r"\b(?:mejor(?:es)?|melhor(?:es)?|miglior[ei]|meilleure?s?|(?:be|relevante|wichtig)ste\w*|najlepsz\w*|bäst\w*|eniten)\b",
    ),
    *(r"\b(?:en çok|iyi\w*|mai (?!puțin)\w+)\b", "наиболее", "найбільш", "лучш", "найкращ"),
    "(?<!ít )liên quan nhất",
    *("الأكثر", "सबसे (?:अधिक|ज़्यादा)", "paling relevan", "มากที่สุด", "יותר רלוונטי", "بیش‌?ترین|مرتبط.{0,2}ترین"),
    *("περισσότερο",),
)
_TURNED = rf"{_LEAST}[^.\n]{{0,40}}?(?:{_MOST}|\bfirst\b)"
_FROM = r"\b(?:from|von|vom|de|du|des|dal?|dalla|van|od|från|fra|dari|từ)\b|от |від |من |از |จาก|[从從由]"
_DOWN = rf"{_MOST}(?:(?!{_FROM})[^.\n]){{0,40}}?{_LEAST}"
_RISING = _any(
    _TURNED,
    r"\b(?:ascending|ascendent\w*|aufsteigend\w*|oplopend\w*|stigand?e|rosnąc\w*|vzestupn\w*|crescător|artan)\b",
    r"\b(?:increasing|growing|revers(?:e|ed)) (?:order )?(?:of |in )?(?:relevan|useful|importan)|"
    r"\b(?:croissante?|creciente|crescente)\b|возрастани|зростання|تصاعدي|आरोही|tăng dần|αύξουσα|จากน้อยไปมาก|صعودی",
    r"\brevers(?:e|ing) (?:this|the) (?:order|ranking)",
    rf"{_MOST}[^.\n]{{0,12}}\b(?:last|zuletzt|en dernier|al final)\b",
    *(
        "[从從由][低弱差小][到至][高强強好大]",
        "[从從由]最不",
        "最不相[关關]到",
        "升序",
        "[递遞]增",
        "昇順",
        "低い順",
        "低い(?:もの|方)から",
        "오름차순",
        r"낮은\s?순",
        r"낮은\s?(?:것|쪽)부터",
    ),
    *(r"\bbottom (?:to|up to) top\b", r"\bmenor a mayor\b"),
)
# The ends of a scale, in words.
BEST_END = re.compile(
    rf"{_MOST}|\b(?:höchste\w*|maximal\w*|am \w+sten|ottim\w+|[oó]ptim\w+|excelente|parfait\w*|perfett\w*)\b",
    re.IGNORECASE,
)
WORST_END = re.compile(
    rf"{_LEAST}|\b(?:niedrigste\w*|geringste\w*|ungenügend|mauvais\w*|mal[oa]?|ruim)\b", re.IGNORECASE
)
# What is said first counts: in "du plus au moins pertinent, avec plus de poids sur ...", nothing rises.
WORST_FIRST = re.compile(rf"\A(?:(?!{_DOWN})[\s\S])*?{_RISING}", re.IGNORECASE)
# A document that prose begins with, and calls the worst of all.
BEGINS_WORST = re.compile(rf"\A(?:(?!{_MOST})[\s\S])*{_LEAST}(?:(?!{_MOST})[\s\S])*\Z", re.IGNORECASE)
# Likewise behind an order, in its own clause: `[1] -> [2] (least to most relevant)`.
WORST_FIRST_BEHIND = re.compile(
    rf"[^.\n\[\d:;]{{0,80}}?(?:{_LEAST}[^.\n\[\d:;]{{0,40}}?(?:{_MOST}|\bfirst\b)|\bworst first|"
    r"\b(?:ascending|increasing|reversed?) (?:order|relevance)|"
    r">[\"'` ]{0,3}(?:here )?(?:means|denotes|reads|stands for|indicates|=)[^.\n]{0,20}\b(?:less|worse|lower)\b|"
    "从低到高|由低到高|升序|昇順|低い順|오름차순|낮은 ?순)",
    re.IGNORECASE,
)
# A list that goes down to what is irrelevant, or up from there, is not one of what is irrelevant.
_DOWN_TO = re.compile(
    rf"{_DOWN}|{_TURNED}|[从從由]最不(?:太)?相[关關]|"
    r"最相[关關][^。\n]{0,6}?最?不(?:太)?相[关關]|\bmost[^.\n]{0,30}\bto\b[^.\n]{0,15}?(?:ir|un|not )relevant",
    re.IGNORECASE,
)
# Likewise where the other end is no "most": `relevant → irrelevant`, 가장 관련 있음 → 관련 없음.
_DOWN_TO_NONE = re.compile(
    r"(?:relevan|pertinen|passend|相[关關]|関連|관련|\bbest|\bhigh|高|높)[^.。\n]{0,20}?"
    r"(?:→|-+>|=+>|\b(?:(?:down )?to|bis|à|al?|hasta|até|do|naar|till)\b|[到至~]|から|에서|부터)[ (]{0,2}"
    r"(?:(?:the|leas?t|completely|entirely|totally|not at all|moins|weniger|menos|最|完全|全く|전혀)[ ]?){0,2}"
    rf"(?:{NEGATIVE.pattern})",
    re.IGNORECASE,
)
# What is said of documents that are all alike.
EQUALLY = re.compile(
    r"\b(?:equally|equal in|same (?:relevance|score|level|degree)|all (?:tied|equal)|gleich(?:ermaßen)? relevant|"
    r"également pertinents|igual(?:mente)? de relevantes)\b|同样相关|同等|同様に関連|똑같이|동일하게|동등",
    re.IGNORECASE,
)
# Between two orders of which none is chosen.
OR = re.compile(
    r"[ ,]*(?:\b(?:or|oder|ou|o|czy|lub|albo|veya|ya da|hay|hoặc|atau|eller|или|або)\b|"
    r"还是|還是|或者?|또는|아니면|それとも|または|か(?=[ \[])|أو|หรือ)[ ]*",
    re.IGNORECASE,
)
# What takes back the order before it.
RETRACTION = re.compile(
    r"\b(?:correction|corrected|wait|actually|oops|sorry|scratch that|(?:made|was) an? (?:mistake|error)|i was wrong|"
    r"on second thought|let me (?:correct|revise|redo)|revised|amended|korrektur|correcci[oó]n)\b|"
    "更正|纠正|訂正|정정|수정",
    re.IGNORECASE,
)
# Announces an order that is not the last word; it counts as one without an announcement.
INITIAL = any_of(
    r"\b(?:initial|original|input|given|preliminary|tentative|draft|previous|"
    r"first (?:thought|guess|idea|impression))",
    r"\b(?:ursprünglich|vorläufig|inicial|inizial|provisi?o(?:r|nal)|provvisor)",
    r"\b(?:oorspronkelijk|aanvankelijk|voorlopig)",
    *(r"\b(?:pierwotn|początkow|wstępn)", "исходн", "первоначальн", "начальн", "الأولي", "الأصلي", "ban đầu"),
    *("初步", "最初", "原始", "初始", "元の", "当初", "처음", "초기", "원래"),
)
# Places in words, the first one's first; what goes on with the next place; and the last place.
ORDINALS = tuple(
    re.compile(rf"(?:(?:the|in|at|die|der|das|le|la|el)\s)?(?:{words})(?![a-zà-ÿ])", re.IGNORECASE)
    for words in (
        r"first(?:ly)?|erste[rns]?|premi[eè]re?|primer[oa]?|第一(?:位|名|个)?|首位|首先|첫째|첫 ?번째(?:로)?|1番目|"
        r"一番目|まず",
        r"second(?:ly)?|zweite[rns]?|deuxième|segund[oa]|第二(?:位|名|个)?|둘째|두 ?번째(?:로)?|2番目|二番目",
        r"third(?:ly)?|dritte[rns]?|troisième|tercer[oa]?|第三(?:位|名|个)?|셋째|세 ?번째(?:로)?|3番目|三番目",
        r"fourth(?:ly)?|vierte[rns]?|quatrième|cuart[oa]|第四(?:位|名|个)?|넷째|네 ?번째(?:로)?|4番目",
        r"fifth(?:ly)?|fünfte[rns]?|cinquième|quint[oa]|第五(?:位|名|个)?|다섯 ?번?째(?:로)?|5番目",
        r"sixth|sechste[rns]?|sixième|sext[oa]|第六(?:位|名|个)?|여섯 ?번?째|6番目",
        r"seventh|第七(?:位|名|个)?|일곱 ?번?째|7番目",
        r"eighth|第八(?:位|名|个)?|여덟 ?번?째|8番目",
        r"ninth|第九(?:位|名|个)?|아홉 ?번?째|9番目",
        r"tenth|第十(?:位|名|个)?|열 ?번?째|10番目",
    )
)
_LAST = (
    r"final(?:ly)?|last(?:ly)?|最后|最後|最终|最終|마지막(?:으로)?|끝으로|"
    "zuletzt|schließlich|enfin|finalmente|infine|por último|наконец|na końcu"
)
LAST = re.compile(rf"(?:(?:the|and|in|at)\s)?(?:{_LAST})(?![a-zà-ÿ])", re.IGNORECASE)
NEXT = re.compile(
    r"(?<![a-zà-ÿ])(?:then|next|followed by|after (?:that|it)|dann|danach|gefolgt von|ensuite|puis|"
    r"suivie? (?:de|par)|luego|después|seguid[oa] (?:de|por|da)|depois|em seguida|poi|"
    r"затем|потом|далее|potem|następnie)(?![a-zà-ÿа-я])|"
    "其次|然后|接着|再次|次に|続いて|그다음|그 다음|다음으로|이어서",
    re.IGNORECASE,
)
FINALLY = re.compile(_LAST, re.IGNORECASE)
# Before a place in numbers.
RANK_WORD = r"(?:rank|place|position|top|no\.?|platz|rang|puesto|lugar|miejsce|plaats|место|місце|第|順位|排名|순위)"
# Names of columns and members: a rank by what the name ends in, whatever stands before it.
RANK = re.compile(
    r".*(?:rank|ranking|position)|(?:\w+[ _-])?(?:place|order)|#|no\.?|.*(?:排名|名次|順位|순위)|"
    r"rang|platz|puesto|posici[oó]n|posição|posizione|miejsce|pozycja|sıra|plaats|ранг|место|місце",
    re.IGNORECASE,
)
SCORE = re.compile(
    r"(?:.*[ _-])?(?:score|rating|grade|probability|points?|confidence|usefulness|helpfulness|similarity|importance|"
    r"quality|utility|match|fit|verdict|stars?|logit|prob)|\w+score|relevan(?:ce|cy)(?:[ _-]\w+)?|"
    r"(?:.*[ _-])?relevan(?:ce|cy)|.*(?:分数|得分|评分|評分|相关性|相關性|相关度|相关程度|関連度|関連性|"
    "スコア|点数|점수|관련도|관련성|적합도)|"
    r"bewertung|punkte|relevanz|pertinence|puntuaci[oó]n|relevancia|pontuação|relevância|punteggio|"
    "rilevanza|pertinenza|"
    "ocena|puan|skor|оценка|балл[ыа]?|релевантность|оцінка",
    re.IGNORECASE,
)
# Names of scores by which documents are sorted before others beside them: a confidence is one in the verdict.
SCORE_LEVELS = (
    any_of(r"(?:.*[ _-])?(?:overall|final|total|combined)(?:[ _-].*)?|.*(?:综合|總|总|종합|총점|総合).*"),
    any_of(r"(?!.*(?:confidence|probab|certain)).*(?:relevan|pertinen|rilevan|релевант|相关|相關|関連|관련).*"),
    any_of(r"score|rating|grade|points?|分数|得分|评分|評分|スコア|点数|점수|punkte|bewertung|puntuaci[oó]n|оценка"),
)
# Names of figures of which the lowest is the best.
COST = re.compile(
    r"(?:.*[ _-])?(?:distance|loss(?:es?)?|penalt(?:y|ies)|costs?|errors?|perplexity|nll|dissimilarity|divergence)|"
    r"(?:.*[ _-])?irrelevan(?:ce|cy)(?:[ _-]\w+)?|距離|距离|거리",
    re.IGNORECASE,
)
PROSE = re.compile(r"[^\W\d_]{2,}")  # a word
COMPARISON = any_of(r"\bthan\b", r"\bals\b", "比", "より", "보다")
# What stands between two documents, of which it calls the first one better, or the second one.
_OTHER = rf"(?<![a-z])(?:{{words}})[ \t*_\"'`]*(?:{ANY_NAME}\s?)?\Z"
_VERB = r"(?:is|are|was|has|ranks?|seems?|looks?|fits?|match(?:es)?|answers?|address(?:es)?)\b[^.\n]{0,40}\b"
_PLACE = r"(?:(?:is|be|ranks?|ranked|placed|comes?|goes|stands?|belongs?)\s|\A[ *_]*)"
ABOVE = re.compile(
    _OTHER.format(
        words=rf"{_VERB}(?:more|better|higher|stronger|closer)\b[^.\n]{{0,60}}\bthan|rather than|"
        rf"{_PLACE}(?:over|above|before|ahead of)|beats?|out(?:ranks?|performs?)|precedes?|surpass(?:es)?|exceeds?|"
        "wins? (?:against|over)|(?:superior|preferred|preferable) to|优于|好于|高于|胜过|比"
    ),
    re.IGNORECASE,
)
BELOW = re.compile(
    _OTHER.format(
        words=rf"{_VERB}(?:less|worse|lower|weaker)\b[^.\n]{{0,60}}\bthan|"
        rf"{_PLACE}(?:below|behind|beneath|under|after)|follows?|trails?|loses? (?:to|against)|inferior to|"
        "(?:beaten|out(?:ranked|performed)|preceded|surpassed) by|不如|低于|より|보다"
    ),
    re.IGNORECASE,
)
# What makes a sentence say something else than its comparison.
UNSURE = any_of(
    r"\b(?:not|never|nor?|neither|hardly|if|whether|unless|nicht|kein|pas)\b", r"n['’]t\b", "不是|没有|如果"
)


def is_negative(words: str) -> bool:
    """Tell whether words call documents irrelevant; naming the worse end of a direction calls none so."""
    if not NEGATIVE.search(words):
        return False
    return NEGATIVE.search(_DOWN_TO_NONE.sub("", _DOWN_TO.sub("", words))) is not None
