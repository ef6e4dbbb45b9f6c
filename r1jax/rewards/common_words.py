"""Common words of the languages that share the Latin script.

Trigrams of letters say little about the words that a text has most of, such
as "the" and "die"; a short list of them says a lot. A word may be listed for
several languages.
"""

_LISTS = {
  "cs": (
    "je se na že to jsou být by ale jako pro podle tak jsme jen který která "
    "které když protože tedy pokud nebo také má jeho ve ze jsem není může "
    "dva tři čtyři pět"
  ),
  "de": (
    "der die das und ist nicht ein eine einen einem den dem des mit für auf "
    "von zu im in es sich auch wir ich wird sind als wenn aber oder dass "
    "also dann so an noch nur da hat man bei kann was wie zwei drei vier "
    "fünf"
  ),
  "en": (
    "the and is of to in that it we be are this so for as with not then "
    "have has can but or by if at on an was from which let me you will "
    "there do would they its what how all also because no one two three "
    "four five"
  ),
  "es": (
    "el la los las de que en un una es por con no se para como su más pero "
    "son lo del al si entonces esto este esta hay tiene también ya porque "
    "cada así uno ser podemos dos tres cuatro cinco"
  ),
  "fi": (
    "ja on ei se että oli kuin mutta ovat joka niin myös tai jos kun sen "
    "tämä ole voi olla hän siis koska sitten mitä nyt vain kaksi kolme "
    "neljä viisi"
  ),
  "fr": (
    "le la les des de du et est un une que qui dans pour pas ne nous on en "
    "au aux ce cette sont avec par sur il elle se plus donc mais ou si je "
    "son sa ses comme car alors cela ont leur deux trois quatre cinq"
  ),
  "hu": (
    "az és hogy nem egy ez van de is ha akkor mert csak vagy már volt meg "
    "mint lesz ezért azt ezt kell tehát ami így pedig két kettő három négy "
    "öt"
  ),
  "id": (
    "yang dan di ini itu dengan untuk dari tidak adalah kita ada pada dalam "
    "ke akan bisa jadi maka karena juga atau saya sudah kami sebagai dua "
    "satu tiga empat lima"
  ),
  "it": (
    "il lo la gli le di che un una per con non in si del della dei delle al "
    "è sono come ma più questo questa se da nel nella anche quindi abbiamo "
    "ha ogni poi perché possiamo allora due tre quattro cinque"
  ),
  "nl": (
    "de het een van en is dat in te op met voor niet zijn we er aan die ook "
    "als maar dus om door dan of ik bij naar uit kan wordt nog wat deze dit "
    "hebben heeft zo moet twee drie vier vijf"
  ),
  "pl": (
    "nie się jest na że to do jak ale co od za po tak czy przez są dla jego "
    "tym więc może być który która które oraz lub jeśli gdy ponieważ już "
    "dwa trzy cztery pięć"
  ),
  "pt": (
    "os as de que um uma em não para com por do da dos das no na se mais "
    "mas como ao são ou isso este esta então temos também seu sua tem ser "
    "cada pode podemos porque já dois duas três quatro cinco"
  ),
  "ro": (
    "și în de la că nu este un cu pe pentru din care sunt mai se ce sau dar "
    "deci dacă prin fi avem are această acest lui al ai ca fie doar doi "
    "două trei patru cinci"
  ),
  "sv": (
    "och att det som är en på för av med den inte till ett har vi om så men "
    "de eller kan var från då när där också ska detta jag vara blir bara "
    "två tre fyra fem"
  ),
  "tr": (
    "ve bir bu için ile da de çok olarak daha ne gibi kadar ama olan var mi "
    "değil sonra her ise çünkü yani eğer veya olur şimdi biz iki üç dört "
    "beş"
  ),
  "vi": (
    "là và của có không một các cho được trong này với ta chúng số ra khi "
    "thì nên đó từ mà hai vậy nếu cũng ba để như hay bốn năm"
  ),
}

LANGUAGES_OF: dict[str, frozenset[str]] = {
  word: frozenset(code for code in _LISTS if word in _LISTS[code].split())
  for words in _LISTS.values()
  for word in words.split()
}
