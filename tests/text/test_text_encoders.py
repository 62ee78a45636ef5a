"""Text encoders against scikit-learn's hashing and TF-IDF, and what is learnt from which texts."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from perception.errors import ConfigError, DataError
from perception.text.hashing_tfidf import HashingTfidf
from perception.text.pretrained_text import LanguageModel, TextTower
from perception.text.text_encoder import CallableEncoder, build_text_encoder
from perception.text.words import words_of
from perception.transforms.names import remove_names

TRAIN = ["Pull the left arm back", "pull, pull harder!", "stay there", "Cut here; good", "good good good"]
OTHER = ["pull the needle", "", "Größe ändern"]


@pytest.mark.parametrize(("ngrams", "sublinear", "dim"), [(1, False, 64), (2, True, 257), (1, False, 5)])
def test_hashing_tfidf_equals_scikit_learn(ngrams, sublinear, dim):
    def grams(text):
        words = words_of(text)
        return [" ".join(words[i : i + n]) for n in range(1, ngrams + 1) for i in range(len(words) - n + 1)]

    hashing = HashingVectorizer(n_features=dim, analyzer=grams, norm=None, alternate_sign=True)
    counts = hashing.transform([*TRAIN, *OTHER]).toarray()
    if sublinear:  # scikit-learn's own would take the logarithm of signed sums
        counts = np.stack([_sublinear(grams(text), hashing) for text in [*TRAIN, *OTHER]])
    weights = TfidfTransformer(norm="l2").fit(counts[: len(TRAIN)])
    encoder = build_text_encoder(dict(type="HashingTfidf", dim=dim, ngrams=ngrams, sublinear=sublinear))
    encoder.fit(TRAIN)
    found = encoder([*TRAIN, *OTHER])
    np.testing.assert_allclose(found.numpy(), weights.transform(counts).toarray(), atol=1e-6)
    assert found[len(TRAIN) + 1].abs().sum() == 0 and encoder.embed_dims == found.shape[1] == dim


def _sublinear(grams, hashing):
    total = np.zeros(hashing.n_features)
    for gram in set(grams):
        row = HashingVectorizer(n_features=hashing.n_features, analyzer=lambda t: [t], norm=None).transform([gram])
        total += row.toarray()[0] * (1 + np.log(grams.count(gram)))
    return total


def test_weights_come_from_the_training_texts_and_lie_in_the_checkpoint():
    encoder = HashingTfidf(dim=64)
    with pytest.raises(ConfigError, match="never fitted"):
        encoder(TRAIN)
    encoder.fit(TRAIN)
    before = encoder(TRAIN)
    encoder(OTHER)
    assert torch.equal(encoder(TRAIN), before) and int(encoder.documents) == 5
    other = HashingTfidf(dim=64)
    other.load_state_dict(encoder.state_dict())
    assert other.fitted and torch.equal(other(OTHER), encoder(OTHER))
    with pytest.raises(ConfigError, match="none of the 2 training texts has a word"):
        HashingTfidf().fit(["", "..."])


def test_any_function_is_an_encoder():
    asked = []

    def lengths(texts):
        asked.extend(texts)
        return np.array([[len(text), 1] for text in texts])

    encoder = build_text_encoder(lengths)
    assert isinstance(encoder, CallableEncoder) and encoder.embed_dims == 2
    assert encoder(["abc", "d", "abc"]).tolist() == [[3, 1], [1, 1], [3, 1]]
    encoder(["abc"])
    assert asked.count("abc") == 1 and build_text_encoder(encoder) is encoder
    with pytest.raises(ConfigError, match="one vector a text"):
        build_text_encoder(lambda texts: np.zeros(3))
    with pytest.raises(DataError, match="'bad' is not finite"):
        build_text_encoder(lambda texts: [[np.nan if text == "bad" else 0.0] for text in texts])(["good", "bad"])
    with pytest.raises(ConfigError, match="HashingTfidf"):
        build_text_encoder("minilm")


@pytest.fixture
def language_model(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "pull", "the", "left", "arm", "back", "good"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_language_model_is_the_mean_over_its_tokens_whatever_stands_beside(language_model):
    from transformers import AutoModel

    encoder = build_text_encoder(dict(type="LanguageModel", name=str(language_model)))
    found = encoder(["pull the left arm back", "good", "pull the left arm back"])
    model = AutoModel.from_pretrained(language_model).eval()
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[2, 3, 4, 5, 6]])).last_hidden_state
    torch.testing.assert_close(found[0], alone.mean(1)[0], atol=1e-5, rtol=0)
    assert torch.equal(found[0], found[2]) and found.shape == (3, encoder.embed_dims)
    assert not encoder.state_dict() and not list(encoder.parameters())
    first = LanguageModel(str(language_model), pooling="first")(["pull the left arm back"])
    torch.testing.assert_close(first[0], alone[0, 0], atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="nearest is 'mean'"):
        LanguageModel(str(language_model), pooling="meen")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="neither a folder with a language model"):
        LanguageModel(str(tmp_path))


def test_a_text_tower():
    tokens = dict(type="WordTokenizer", words=["pull", "back"], context_length=6)
    clip = dict(
        type="CLIP",
        model=dict(
            embed_dim=16,
            vision_cfg=dict(image_size=32, patch_size=16, layers=1, width=32, head_width=16),
            text_cfg=dict(layers=1, width=32, heads=2),
        ),
        preprocess=dict(type="ImageTextPreprocess", size=32, tokenizer=tokens),
    )
    encoder = build_text_encoder(dict(type="TextTower", backbone=clip)).train()
    found = encoder(["pull back", "back", "pull back"])
    assert found.shape == (3, 16) and torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    torch.testing.assert_close(found, encoder.tower.embed_text(["pull back", "back", "pull back"]))
    assert not any(p.requires_grad for p in encoder.parameters()) and not encoder.tower.training
    with pytest.raises(ConfigError, match="ConvNet has no text tower"):
        TextTower(dict(type="ConvNet", preprocess=dict(type="ImagePreprocess", size=32)))


def test_names_are_removed():
    texts = ["Good, Anna, pull back", "anna's hand, Dr.  Smith!", "Annabel stays", "  as it   is "]
    assert remove_names(texts, ["Anna", "Smith", "Dr. Smith"]) == [
        "Good,, pull back",
        "hand,!",
        "Annabel stays",
        "  as it   is ",
    ]
    assert remove_names(["Ask Anna."], ["anna"], "[name]") == ["Ask [name]."]
    assert remove_names(["José cut"], ["José"]) == ["cut"]  # composed and decomposed accents are one
    with pytest.raises(DataError, match="empty"):
        remove_names(["x"], [" "])
