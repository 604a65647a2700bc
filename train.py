"""Train one stage of LaVie: deepspeed train.py --deepspeed configs/zero3.json [CONFIG.yaml] [key=value ...]"""

from lavie.train import main

if __name__ == "__main__":
    main()
