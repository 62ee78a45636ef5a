"""What the procedural tiles are called: scenes and two properties of each in six languages.

A line is ``scene | first property, three values | second property, three values``. Phrases are whole, so that gender
and case are right wherever they stand: templates ask for the nominative. No phrase speaks of left, right, north or
upright: the captions stay true when an image is mirrored or turned.
"""

from __future__ import annotations

from functools import cache

LANGUAGES = ("en", "pt", "es", "fr", "de", "zh")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("a satellite image of {}", "an aerial photo of {}", "there is {} in the picture", "{}, seen from above"),
    "pt": ("uma imagem de satélite de {}", "fotografia aérea: {}", "há {} na imagem", "{}, em vista aérea"),
    "es": ("una imagen de satélite de {}", "fotografía aérea: {}", "hay {} en la imagen", "{}, en vista aérea"),
    "fr": ("une image satellite : {}", "photo aérienne : {}", "il y a {} sur l'image", "{}, en vue aérienne"),
    "de": ("ein Satellitenbild: {}", "eine Luftaufnahme: {}", "auf dem Bild ist {} zu sehen", "{}, von oben gesehen"),
    "zh": ("一张卫星图像：{}", "一张航拍照片：{}", "图中是{}", "从空中看到的{}"),
}

_PHRASES: dict[str, dict[str, str]] = {
    "forest": {
        "en": "a forest | of dark conifers; of light green broadleaf trees; in autumn colours"
        " | with a clearing; with a dirt track; without any gap",
        "pt": "uma floresta | de coníferas escuras; de folhosas verde-claras; com cores de outono"
        " | com uma clareira; com um caminho de terra; sem falhas",
        "es": "un bosque | de coníferas oscuras; de frondosas verde claro; con colores de otoño"
        " | con un claro; con un camino de tierra; sin huecos",
        "fr": "une forêt | de conifères sombres; de feuillus vert clair; aux couleurs d'automne"
        " | avec une clairière; avec un chemin de terre; sans trouées",
        "de": "ein Wald | aus dunklen Nadelbäumen; aus hellgrünen Laubbäumen; in Herbstfarben"
        " | mit einer Lichtung; mit einem Feldweg; ohne Lücken",
        "zh": "森林 | 深色针叶树的; 浅绿色阔叶树的; 秋色的 | 有空地的; 有土路的; 没有空隙的",
    },
    "river": {
        "en": "a river | between meadows; through a forest; through dry land"
        " | with a bridge; with sandbanks; with muddy water",
        "pt": "um rio | entre prados; através de uma floresta; através de terra seca"
        " | com uma ponte; com bancos de areia; com água barrenta",
        "es": "un río | entre prados; a través de un bosque; a través de tierra seca"
        " | con un puente; con bancos de arena; con agua turbia",
        "fr": "une rivière | entre des prairies; à travers une forêt; à travers une terre aride"
        " | avec un pont; avec des bancs de sable; avec de l'eau boueuse",
        "de": "ein Fluss | zwischen Wiesen; durch einen Wald; durch trockenes Land"
        " | mit einer Brücke; mit Sandbänken; mit schlammigem Wasser",
        "zh": "河流 | 草地之间的; 穿过森林的; 穿过旱地的 | 有桥的; 有沙洲的; 水很浑浊的",
    },
    "farmland": {
        "en": "farmland | with green fields; with yellow fields; with ploughed brown fields"
        " | in long strips; in large blocks; with round irrigated plots",
        "pt": "terra agrícola | com campos verdes; com campos amarelos; com campos castanhos lavrados"
        " | em faixas longas; em grandes blocos; com parcelas redondas irrigadas",
        "es": "tierra de cultivo | con campos verdes; con campos amarillos; con campos marrones arados"
        " | en franjas largas; en grandes bloques; con parcelas redondas de regadío",
        "fr": "un terrain agricole | avec des champs verts; avec des champs jaunes; avec des champs bruns labourés"
        " | en longues bandes; en grands blocs; avec des parcelles rondes irriguées",
        "de": "Ackerland | mit grünen Feldern; mit gelben Feldern; mit gepflügten braunen Feldern"
        " | in langen Streifen; in großen Blöcken; mit runden bewässerten Flächen",
        "zh": "农田 | 绿色田地的; 黄色田地的; 褐色耕地的 | 长条状的; 大块的; 有圆形灌溉地的",
    },
    "residential": {
        "en": "a residential area | with red roofs; with grey roofs; with white roofs"
        " | with many trees; with swimming pools; with houses packed densely",
        "pt": "uma zona residencial | com telhados vermelhos; com telhados cinzentos; com telhados brancos"
        " | com muitas árvores; com piscinas; com casas muito juntas",
        "es": "una zona residencial | con tejados rojos; con tejados grises; con tejados blancos"
        " | con muchos árboles; con piscinas; con casas muy juntas",
        "fr": "une zone résidentielle | avec des toits rouges; avec des toits gris; avec des toits blancs"
        " | avec beaucoup d'arbres; avec des piscines; avec des maisons serrées",
        "de": "ein Wohngebiet | mit roten Dächern; mit grauen Dächern; mit weißen Dächern"
        " | mit vielen Bäumen; mit Schwimmbecken; mit dicht stehenden Häusern",
        "zh": "住宅区 | 红色屋顶的; 灰色屋顶的; 白色屋顶的 | 树木很多的; 有游泳池的; 房屋密集的",
    },
    "highway": {
        "en": "a highway | between meadows; through a forest; through dry land"
        " | with many cars; almost without cars; with a crossroads",
        "pt": "uma estrada | entre prados; através de uma floresta; através de terra seca"
        " | com muitos carros; quase sem carros; com um cruzamento",
        "es": "una carretera | entre prados; a través de un bosque; a través de tierra seca"
        " | con muchos coches; casi sin coches; con un cruce",
        "fr": "une route | entre des prairies; à travers une forêt; à travers une terre aride"
        " | avec beaucoup de voitures; presque sans voitures; avec un carrefour",
        "de": "eine Straße | zwischen Wiesen; durch einen Wald; durch trockenes Land"
        " | mit vielen Autos; fast ohne Autos; mit einer Kreuzung",
        "zh": "公路 | 草地之间的; 穿过森林的; 穿过旱地的 | 汽车很多的; 几乎没有汽车的; 有十字路口的",
    },
    "lake": {
        "en": "a lake | between meadows; in a forest; in dry land | with an island; with boats; with green algae",
        "pt": "um lago | entre prados; numa floresta; em terra seca | com uma ilha; com barcos; com algas verdes",
        "es": "un lago | entre prados; en un bosque; en tierra seca | con una isla; con barcos; con algas verdes",
        "fr": "un lac | entre des prairies; dans une forêt; dans une terre aride"
        " | avec une île; avec des bateaux; avec des algues vertes",
        "de": "ein See | zwischen Wiesen; in einem Wald; in trockenem Land"
        " | mit einer Insel; mit Booten; mit grünen Algen",
        "zh": "湖泊 | 草地之间的; 森林里的; 旱地里的 | 有岛的; 有船的; 有绿藻的",
    },
    "industrial": {
        "en": "an industrial area | with white halls; with blue halls; with grey halls"
        " | with storage tanks; with parked trucks; with coloured containers",
        "pt": "uma zona industrial | com pavilhões brancos; com pavilhões azuis; com pavilhões cinzentos"
        " | com tanques; com camiões estacionados; com contentores coloridos",
        "es": "una zona industrial | con naves blancas; con naves azules; con naves grises"
        " | con tanques; con camiones aparcados; con contenedores de colores",
        "fr": "une zone industrielle | avec des hangars blancs; avec des hangars bleus; avec des hangars gris"
        " | avec des réservoirs; avec des camions garés; avec des conteneurs colorés",
        "de": "ein Industriegebiet | mit weißen Hallen; mit blauen Hallen; mit grauen Hallen"
        " | mit Tanks; mit geparkten Lastwagen; mit bunten Containern",
        "zh": "工业区 | 白色厂房的; 蓝色厂房的; 灰色厂房的 | 有储罐的; 停着卡车的; 有彩色集装箱的",
    },
    "beach": {
        "en": "a beach | of white sand; of golden sand; of grey pebbles"
        " | with strong surf; with calm water; with parasols",
        "pt": "uma praia | de areia branca; de areia dourada; de seixos cinzentos"
        " | com ondas fortes; com água calma; com guarda-sóis",
        "es": "una playa | de arena blanca; de arena dorada; de guijarros grises"
        " | con fuerte oleaje; con agua tranquila; con sombrillas",
        "fr": "une plage | de sable blanc; de sable doré; de galets gris"
        " | avec de fortes vagues; avec une eau calme; avec des parasols",
        "de": "ein Strand | aus weißem Sand; aus goldenem Sand; aus grauen Kieseln"
        " | mit starker Brandung; mit ruhigem Wasser; mit Sonnenschirmen",
        "zh": "海滩 | 白色沙子的; 金色沙子的; 灰色卵石的 | 海浪很大的; 海水平静的; 有遮阳伞的",
    },
    "desert": {
        "en": "a desert | of yellow sand; of red sand; of grey gravel"
        " | with dunes; with scattered shrubs; with a dry riverbed",
        "pt": "um deserto | de areia amarela; de areia vermelha; de cascalho cinzento"
        " | com dunas; com arbustos dispersos; com um leito seco",
        "es": "un desierto | de arena amarilla; de arena roja; de grava gris"
        " | con dunas; con arbustos dispersos; con un cauce seco",
        "fr": "un désert | de sable jaune; de sable rouge; de gravier gris"
        " | avec des dunes; avec des arbustes épars; avec un lit asséché",
        "de": "eine Wüste | aus gelbem Sand; aus rotem Sand; aus grauem Schotter"
        " | mit Dünen; mit verstreuten Büschen; mit einem trockenen Flussbett",
        "zh": "沙漠 | 黄色沙子的; 红色沙子的; 灰色砾石的 | 有沙丘的; 灌木零散的; 有干涸河床的",
    },
    "orchard": {
        "en": "an orchard | on green grass; on brown soil; on sandy soil"
        " | with small trees; with large trees; with white blossom",
        "pt": "um pomar | em erva verde; em solo castanho; em solo arenoso"
        " | com árvores pequenas; com árvores grandes; com flores brancas",
        "es": "un huerto de frutales | sobre hierba verde; sobre suelo marrón; sobre suelo arenoso"
        " | con árboles pequeños; con árboles grandes; con flores blancas",
        "fr": "un verger | sur de l'herbe verte; sur un sol brun; sur un sol sableux"
        " | avec de petits arbres; avec de grands arbres; avec des fleurs blanches",
        "de": "eine Obstwiese | auf grünem Gras; auf braunem Boden; auf sandigem Boden"
        " | mit kleinen Bäumen; mit großen Bäumen; mit weißen Blüten",
        "zh": "果园 | 绿草地上的; 褐色土地上的; 沙地上的 | 树木矮小的; 树木高大的; 开着白花的",
    },
    "parking": {
        "en": "a parking lot | on dark asphalt; on light concrete; on brown gravel"
        " | full of cars; almost empty; with rows of trees",
        "pt": "um parque de estacionamento | em asfalto escuro; em betão claro; em gravilha castanha"
        " | cheio de carros; quase vazio; com filas de árvores",
        "es": "un aparcamiento | de asfalto oscuro; de hormigón claro; de grava marrón"
        " | lleno de coches; casi vacío; con hileras de árboles",
        "fr": "un parking | en asphalte sombre; en béton clair; en gravier brun"
        " | plein de voitures; presque vide; avec des rangées d'arbres",
        "de": "ein Parkplatz | aus dunklem Asphalt; aus hellem Beton; aus braunem Kies"
        " | voller Autos; fast leer; mit Baumreihen",
        "zh": "停车场 | 深色沥青的; 浅色混凝土的; 褐色碎石的 | 停满汽车的; 几乎空着的; 有成排树木的",
    },
    "mountain": {
        "en": "a snowy mountain range | with bare rock; with dark conifers; with blue ice"
        " | in low sunlight; in soft light; with a frozen lake",
        "pt": "uma serra nevada | com rocha nua; com coníferas escuras; com gelo azul"
        " | com sol baixo; com luz suave; com um lago gelado",
        "es": "una sierra nevada | con roca desnuda; con coníferas oscuras; con hielo azul"
        " | con sol bajo; con luz suave; con un lago helado",
        "fr": "un massif enneigé | avec de la roche nue; avec des conifères sombres; avec de la glace bleue"
        " | au soleil rasant; dans une lumière douce; avec un lac gelé",
        "de": "ein verschneites Gebirge | mit nacktem Fels; mit dunklen Nadelbäumen; mit blauem Eis"
        " | bei tiefer Sonne; in weichem Licht; mit einem gefrorenen See",
        "zh": "雪山 | 岩石裸露的; 有深色针叶树的; 有蓝色冰的 | 阳光斜射的; 光线柔和的; 有结冰湖泊的",
    },
}
CLASSES: tuple[str, ...] = tuple(_PHRASES)


@cache
def phrases(name: str, language: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Scene, first and second property of class ``name``."""
    scene, first, second = (part.strip() for part in _PHRASES[name][language].split("|"))
    values = tuple(tuple(value.strip() for value in part.split(";")) for part in (first, second))
    return scene, values[0], values[1]


@cache
def caption(name: str, language: str, first: int | None, second: int | None, template: int) -> str:
    """A caption of a scene of class ``name`` with the properties that are not None."""
    scene, firsts, seconds = phrases(name, language)
    said = [values[i] for values, i in ((firsts, first), (seconds, second)) if i is not None]
    text = "".join(said) + scene if language == "zh" else " ".join([scene, ", ".join(said)]).strip()
    return TEMPLATES[language][template].format(text)
